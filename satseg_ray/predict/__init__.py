"""Ray Data around prediction and evaluation."""
