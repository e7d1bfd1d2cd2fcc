"""The schedule follows from history, and the record of an unfinished run from its settings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satseg_ray.errors import InUse, TrainingFailed
from satseg_ray.model.training_spec import PlateauSpec, TrainingSpec
from satseg_ray.tracking import Tracking
from satseg_ray.train.checkpoint import Checkpoints, TrainState
from satseg_ray.train.resume import unfinished
from satseg_ray.train.schedule import falls, highest_rate, is_stopped, plateau_factor, since_best
from satseg_ray.workspace import Workspace

scores = st.lists(st.floats(0, 1), max_size=30)


@given(scores, st.integers(1, 5))
def test_the_rate_never_rises_and_falls_by_at_most_one_a_patience(values, patience):
    spec = PlateauSpec(patience=patience)
    counts = [falls(values[:epochs], spec) for epochs in range(len(values) + 1)]
    assert all(0 <= later - earlier <= 1 for earlier, later in pairwise(counts))
    assert counts[-1] <= len(values) // patience


@given(scores)
def test_a_rising_score_neither_falls_nor_stops(values):
    rising = sorted(set(values))
    assert falls(rising, PlateauSpec(patience=1)) == 0
    assert since_best(rising) == 0


def test_early_stopping_asks_for_min_delta_and_counts_from_the_last_gain():
    def spec(**options):
        return TrainingSpec(epochs=9, stopping={"patience": 2, **options})

    history = [{"val_mean_iou": value} for value in (0.50, 0.60, 0.605, 0.609)]
    assert not is_stopped(spec(), history)
    assert is_stopped(spec(min_delta=0.01), history)
    assert not is_stopped(TrainingSpec(epochs=9), history)
    assert is_stopped(TrainingSpec(epochs=4), history)


def test_without_a_validation_split_the_training_loss_is_watched():
    spec = TrainingSpec(schedule="plateau", plateau={"patience": 1, "factor": 0.5})
    assert plateau_factor(spec, [{"loss": 2.0}, {"loss": 1.0}]) == 1
    assert plateau_factor(spec, [{"loss": 1.0}, {"loss": 2.0}]) == 0.5


def test_the_rate_scales_with_the_global_batch_where_its_own_is_named():
    assert highest_rate(TrainingSpec(learning_rate=0.1, batch_size=32)) == 0.1
    assert highest_rate(TrainingSpec(learning_rate=0.1, batch_size=32, rate_batch_size=8)) == 0.4


def _saved(folder: Path, epochs: int) -> TrainState:
    state = TrainState()
    for epoch in range(1, epochs + 1):
        state.advance([np.full(1000, float(epoch))], [np.zeros(3)], {"loss": 1 / epoch})
        Checkpoints(str(folder)).write(state)
    return state


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "empty": lambda body: b"",
    "zeros": lambda body: bytes(len(body)),
    "short": lambda body: body[: len(body) // 2],
    "missing": lambda body: None,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["weights.npz", "optimizer.npz", "state.json"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, capsys, name, damage):
    """As a power cut leaves it: the folder is there, what is in it has not reached the disk."""
    state = _saved(tmp_path, 3)
    path = tmp_path / "epoch-000003" / name
    body = DAMAGES[damage](path.read_bytes())
    path.unlink()
    if body is not None:
        path.write_bytes(body)
    checkpoints = Checkpoints(str(tmp_path))
    assert len(checkpoints.history()) == 2, "the driver tells the epoch that workers go on from"
    found = checkpoints.read()
    assert (found.epoch, found.weights[0][0]) == (2, 2.0)
    assert f"{path.parent} is damaged" in capsys.readouterr().err
    checkpoints.write(state)  # the epoch is trained again
    assert checkpoints.read().epoch == 3
    assert capsys.readouterr().err == ""


def test_damaged_checkpoints_alone_are_refused_with_what_to_do(tmp_path):
    _saved(tmp_path, 3)
    for path in tmp_path.glob("*/weights.npz"):
        path.write_bytes(b"")
    with pytest.raises(TrainingFailed, match=r"2 damaged states and no other.*--fresh true"):
        Checkpoints(str(tmp_path)).read()


def test_the_same_settings_find_their_run_and_others_do_not(tmp_path):
    workspace = Workspace(tmp_path)
    with unfinished(workspace, {"seed": 0}) as record:
        assert record.run_id() is None
        record.begin("abc")
    with unfinished(workspace, {"seed": 1}) as other:
        assert other.run_id() is None
    with unfinished(workspace, {"seed": 0}) as again:
        assert again.run_id() == "abc"
        again.end()
    with unfinished(workspace, {"seed": 0}) as ended:
        assert ended.run_id() is None


def test_the_same_training_twice_at_a_time_is_refused_until_its_process_ends(tmp_path):
    text = (
        "import sys, time; from pathlib import Path;"
        "from satseg_ray.train.resume import unfinished;"
        "from satseg_ray.workspace import Workspace\n"
        f"with unfinished(Workspace(Path({str(tmp_path)!r})), {{}}) as record:\n"
        "    record.begin('abc'); print('held', flush=True); time.sleep(100)"
    )
    holder = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(InUse, match="run abc: is this training"),
        unfinished(Workspace(tmp_path), {}),
    ):
        pass
    os.kill(holder.pid, 9)
    holder.wait()
    with unfinished(Workspace(tmp_path), {}) as record:
        assert record.run_id() == "abc"


def test_the_run_is_named_in_a_workspace_behind_a_link_too(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    workspace = Workspace(tmp_path / "link")
    with unfinished(workspace, {}) as record:
        record.begin("abc")
        with pytest.raises(InUse, match="run abc: is this"), unfinished(workspace, {}):
            pass


def test_a_run_that_goes_on_is_running_again_and_a_deleted_one_is_not_found(tmp_path: Path):
    tracking = Tracking.open(tmp_path)
    run = tracking.create_run("e", "r")
    run.finish("KILLED")
    client = tracking.client()
    assert tracking.reopened(run.run_id) == run
    assert client.get_run(run.run_id).info.status == "RUNNING"
    client.delete_run(run.run_id)
    assert tracking.reopened(run.run_id) is None
    assert tracking.reopened("0" * 32) is None
