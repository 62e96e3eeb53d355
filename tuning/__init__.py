"""Searches for a good recipe, by KerasTuner, over this package's networks and its training."""
