"""Figures a person looks at: how a training went, and what its model does.

Each function draws one PNG: the same arguments give the same bytes.
"""

from satseg_ray.model.figures.bars import write_confusion, write_iou
from satseg_ray.model.figures.comparison import write_forest, write_reliabilities
from satseg_ray.model.figures.curves import write_precision_recall, write_reliability
from satseg_ray.model.figures.learning import write_learning_curves
from satseg_ray.model.figures.samples import Sample, write_samples

__all__ = [
    "Sample",
    "write_confusion",
    "write_forest",
    "write_iou",
    "write_learning_curves",
    "write_precision_recall",
    "write_reliabilities",
    "write_reliability",
    "write_samples",
]
