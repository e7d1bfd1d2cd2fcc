"""Independent pieces of work on Ray: what fails, or kills its process, is one row of the report."""

from __future__ import annotations

import errno
import json
import os
from functools import partial
from pathlib import Path

import pytest

from satseg_ray.data.rows import Pool, Reporter, Work, collected, run_actors, run_tasks
from satseg_ray.errors import TilesFailed, UnreadableRaster, UnwritableProduct

pytestmark = pytest.mark.ray


def work(row: Work) -> Work:
    """Do what the row says: nothing, raise a fact, raise a bug, or kill the process."""
    if row["does"] == "fact":
        raise UnreadableRaster("b.tif", "is damaged", "Give another.")
    if row["does"] == "bug":
        raise ZeroDivisionError("by zero")
    if row["does"] == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "/disk/file")
    if row["does"] == "kill":
        os._exit(9)
    return {"done": row["key"]}


def task(reporter: Reporter, row: Work) -> dict[str, str]:
    return reporter.run(work, row)


class Actor:
    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def __call__(self, row: Work) -> dict[str, str]:
        return self._reporter.run(work, row)


def rows(*does: str) -> list[Work]:
    return [{"key": f"{number:03d}", "does": what} for number, what in enumerate(does)]


def test_outcomes_come_in_the_order_of_their_keys_and_each_is_seen(ray_cluster, tmp_path):
    seen: list[str] = []
    function = partial(task, Reporter(str(tmp_path / "notes")))
    outcomes = collected(
        run_tasks(rows(*["ok"] * 5), function, Pool(2)), "pieces", lambda o: seen.append(o["key"])
    )
    assert [o["done"] for o in outcomes] == ["000", "001", "002", "003", "004"]
    assert sorted(seen) == [o["key"] for o in outcomes]
    assert list((tmp_path / "notes").iterdir()) == []


def test_the_first_failure_by_key_is_raised_once_all_were_tried(ray_cluster, tmp_path):
    seen: list[Work] = []
    outcomes = run_actors(
        rows("ok", "fact", "bug", "ok"), Actor, {"reporter": Reporter(str(tmp_path))}, Pool(2)
    )
    with pytest.raises(UnreadableRaster, match=r"b\.tif: is damaged \(2 of 4 pieces failed\)"):
        collected(outcomes, "pieces", seen.append)
    assert [o["status"] for o in sorted(seen, key=lambda o: o["key"])] == [
        "ok", "failed", "failed", "ok",
    ]  # fmt: skip


def test_a_full_disk_is_told_from_a_bad_piece(tmp_path):
    row = {"key": "a", "does": "full"}
    reports = iter([task(Reporter(str(tmp_path)), row)])
    outcomes = (json.loads(report["outcome"]) for report in reports)
    with pytest.raises(UnwritableProduct, match="/disk/file: cannot be written"):
        collected(outcomes, "pieces")


@pytest.mark.parametrize("kind", ["tasks", "actors"])
def test_a_piece_that_kills_its_process_is_given_up_and_the_others_are_done(
    ray_cluster, tmp_path: Path, kind: str
) -> None:
    reporter, pieces = Reporter(str(tmp_path / "notes")), rows("ok", "kill", "ok")
    if kind == "tasks":
        outcomes = run_tasks(pieces, partial(task, reporter), Pool(1))
    else:
        outcomes = run_actors(pieces, Actor, {"reporter": reporter}, Pool(1))
    seen: list[Work] = []
    with pytest.raises(TilesFailed, match="001: killed its worker 3 times"):
        collected(outcomes, "pieces", seen.append)
    assert sorted(o["key"] for o in seen if o["status"] == "ok") == ["000", "002"]
