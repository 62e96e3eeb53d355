"""Training: strategy, optimizer and schedule, callbacks, and `train(config)`."""
