"""Every chip predicted by a model that has not seen it."""
