"""What a training record is: data set, split, schema, statistics, files. No Ray, no TensorFlow."""

from satseg_ray.patches.dataset import DatasetManifest, SceneRecord
from satseg_ray.patches.schema import Patch, cut_patch, patch_schema
from satseg_ray.patches.split import PatchKey, PatchPlan, SceneSize, SplitSpec, plan_patches
from satseg_ray.patches.store import PatchBatch, PatchManifest, PatchStore, SplitReader

__all__ = [
    "DatasetManifest",
    "Patch",
    "PatchBatch",
    "PatchKey",
    "PatchManifest",
    "PatchPlan",
    "PatchStore",
    "SceneRecord",
    "SceneSize",
    "SplitReader",
    "SplitSpec",
    "cut_patch",
    "patch_schema",
    "plan_patches",
]
