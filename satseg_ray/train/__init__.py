"""Ray Train around the training loop."""
