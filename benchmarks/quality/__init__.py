"""Quality on real imagery."""
