"""What a training record is: data set, split, schema, statistics, files. No Ray, no TensorFlow."""

from satseg_ray.patches.dataset import DatasetManifest, SceneRecord
from satseg_ray.patches.ground import Footprint
from satseg_ray.patches.plan import PatchPlan, Planned, plan_patches
from satseg_ray.patches.sample import SampleSpec
from satseg_ray.patches.schema import Patch, cut_patch, patch_schema
from satseg_ray.patches.split import PatchKey, SceneSize, SplitSpec
from satseg_ray.patches.store import PatchBatch, PatchManifest, PatchStore, SplitReader

__all__ = [
    "DatasetManifest",
    "Footprint",
    "Patch",
    "PatchBatch",
    "PatchKey",
    "PatchManifest",
    "PatchPlan",
    "PatchStore",
    "Planned",
    "SampleSpec",
    "SceneRecord",
    "SceneSize",
    "SplitReader",
    "SplitSpec",
    "cut_patch",
    "patch_schema",
    "plan_patches",
]
