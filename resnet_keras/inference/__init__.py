"""Use of a trained network: predict, evaluate, explain."""
