"""Labels of any kind -> class indexes on the scene's grid: uint8, 255 where unlabelled."""

from satseg_ray.geo.labels.indexes import IndexRaster
from satseg_ray.geo.labels.opening import images_in, kind_of, open_labels, survey
from satseg_ray.geo.labels.rasters import MOST_OFF, LabelReader, LabelSurvey, check_same_grid
from satseg_ray.geo.labels.rule import BitField, By, Indexes, LabelRule, Labels

__all__ = [
    "MOST_OFF",
    "BitField",
    "By",
    "IndexRaster",
    "Indexes",
    "LabelReader",
    "LabelRule",
    "LabelSurvey",
    "Labels",
    "check_same_grid",
    "images_in",
    "kind_of",
    "open_labels",
    "survey",
]
