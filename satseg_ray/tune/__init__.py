"""Sweeps: many trainings with other settings, by Ray Tune."""
