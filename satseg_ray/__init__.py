"""Segmentation of satellite and aerial imagery on Ray: data, training, maps, serving, drift."""

__version__ = "0.1.0"
