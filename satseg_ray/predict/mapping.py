"""From a plan to a map: cores on Ray, then one COG and one picture. Knows no registry."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from satseg_ray.classes import IGNORE
from satseg_ray.data.rows import Pool, Reporter, Work, collected, run_actors
from satseg_ray.geo.cog import MapFormat, assemble_cog
from satseg_ray.geo.quicklook import legend, overlaid, stretched, write_png
from satseg_ray.model.protocol import Model
from satseg_ray.predict.plan import ScenePlan
from satseg_ray.predict.tiles import SceneTask, TilePredictor, core_row, preview_file
from satseg_ray.progress import Progress

MAP, QUICKLOOK = "map.tif", "quicklook.png"


@dataclass(frozen=True)
class CoreFiles:
    """The files of a scene's cores, and the outcomes of the work that made them."""

    folder: Path
    outcomes: Sequence[Work]

    @property
    def numerics_keys(self) -> list[dict[str, object]]:
        """The numerics keys that cores were computed under: one, on nodes of one kind."""
        keys = {json.dumps(o["numerics_key"], sort_keys=True) for o in self.outcomes}
        return [json.loads(key) for key in sorted(keys)]

    def class_pixels(self) -> list[int]:
        """Return the valid pixels of each class index in the scene."""
        return [
            sum(counts) for counts in zip(*(o["class_pixels"] for o in self.outcomes), strict=True)
        ]

    def patches_per_second(self) -> float:
        """Return the patches all workers computed in a second, each from its first core on."""
        workers = {outcome["worker"] for outcome in self.outcomes}
        return float(
            sum(self._rate([o for o in self.outcomes if o["worker"] == w]) for w in workers)
        )

    @staticmethod
    def _rate(outcomes: Sequence[Work]) -> float:
        seconds = max(o["end"] for o in outcomes) - min(o["start"] for o in outcomes)
        return float(sum(o["patches"] for o in outcomes) / max(seconds, 1e-9))


def map_cores(plan: ScenePlan, task: SceneTask, load: Callable[[], Model], pool: Pool) -> CoreFiles:
    """Compute every core of a plan on the connected Ray cluster and leave it in ``task.folder``.

    Raises:
        SatsegError: of the first core that failed; all the others are still tried.
    """
    folder = Path(task.folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [core_row(core) for core in plan.cores]
    arguments = {"task": task, "load": load, "reporter": Reporter(str(folder / "notes"))}
    progress = Progress("predict", plan.scene.window.area / 1e6, "Mpx")
    return CoreFiles(
        folder,
        collected(
            run_actors(rows, TilePredictor, arguments, pool),
            "tiles",
            lambda outcome: progress.advance(outcome.get("pixels", 0) / 1e6),
        ),
    )


def finish_map(plan: ScenePlan, form: MapFormat, cores: CoreFiles, target: Path) -> None:
    """Write the COG and the quicklook into ``target`` and remove the cores' files."""
    assemble_cog(target / MAP, form, cores.folder, plan.cores)
    _write_quicklook(plan, form, cores.folder, target / QUICKLOOK)
    shutil.rmtree(cores.folder)


def _write_quicklook(plan: ScenePlan, form: MapFormat, folder: Path, path: Path) -> None:
    whole = plan.preview.window(plan.scene.window)
    with np.load(preview_file(folder, plan.cores[0])) as first:
        shape, dtype = first["image"].shape, first["image"].dtype
    image = np.zeros((shape[0], whole.height, whole.width), dtype)
    classes = np.full((whole.height, whole.width), IGNORE, np.uint8)
    valid = np.zeros((whole.height, whole.width), np.bool_)
    for core in plan.cores:
        rows, cols = plan.preview.window(core).slices()
        with np.load(preview_file(folder, core)) as part:
            image[:, rows, cols] = part["image"]
            classes[rows, cols] = part["classes"]
            valid[rows, cols] = part["valid"]
    classes[~valid] = IGNORE
    picture = overlaid(stretched(image, valid), classes, form.classes)
    write_png(path, np.concatenate((picture, legend(form.classes, whole.width))))
