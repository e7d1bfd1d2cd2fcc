"""Who is champion, and why: the alias is moved by evidence, remembered in tags, and taken back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from satseg_ray.errors import InUse, ModelVersionNotFound, NotBetter
from satseg_ray.lineage import code_revision
from satseg_ray.products import locked
from satseg_ray.tracking.registry import CHAMPION, ModelVersion, check_name, resolve
from satseg_ray.tracking.runs import Tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPIONS = "champions"
"""Tag of a registered name: the versions that were champion, as JSON, the present one last."""

_REMEMBERED = 200


@dataclass(frozen=True)
class Evidence:
    """A challenger against the champion on the same test blocks.

    ``low`` and ``high`` bound the paired difference (challenger - champion) at ``level``; ``None``
    where there is no interval. ``unfair`` says why the two cannot be compared, empty where they
    can. ``data`` names the patches, ``run_id`` the evaluation that has all figures.
    """

    metric: str
    challenger: float | None
    champion: float | None
    low: float | None
    high: float | None
    level: float
    blocks: int
    data: str
    dataset_version: str = ""
    run_id: str = ""
    unfair: str = ""

    @property
    def better(self) -> bool:
        """Whether the whole interval lies above zero, and the comparison is fair."""
        return not self.unfair and self.low is not None and self.low > 0

    @property
    def words(self) -> str:
        """What came out, in one clause.

        >>> Evidence("mean_iou", 0.7, 0.6, 0.05, 0.15, 0.95, 12, "coast@1/test").words
        'mean_iou 0.7000 against 0.6000, difference +0.1000 (+0.0500 to +0.1500) over 12 blocks'
        """
        mine, theirs = self.challenger, self.champion
        both = f"{self.metric} {_number(mine)} against {_number(theirs)}"
        if mine is not None and theirs is not None:
            between = (
                "no interval"
                if self.low is None or self.high is None
                else f"{self.low:+.4f} to {self.high:+.4f}"
            )
            both += f", difference {mine - theirs:+.4f} ({between})"
        return f"{both} over {self.blocks} block{'s' * (self.blocks != 1)}"

    def tags(self) -> dict[str, str]:
        """Return the evidence as tags of a model version."""
        found: dict[str, Any] = {
            "metric": self.metric,
            "value": self.challenger,
            "against_value": self.champion,
            "difference_low": self.low,
            "difference_high": self.high,
            "level": self.level,
            "blocks": self.blocks,
            "data": self.data,
            "dataset_version": self.dataset_version,
            "evaluation_run": self.run_id,
            "unfair": self.unfair,
        }
        return {key: str(value) for key, value in found.items() if value not in (None, "")}


@dataclass(frozen=True)
class Promotion:
    """A move of the alias: who is champion now, who was before, and why."""

    champion: ModelVersion
    before: ModelVersion | None
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return the promotion as JSON values."""
        return {
            "model": self.champion.name,
            "champion": self.champion.version,
            "before": self.before.version if self.before else None,
            "reason": self.reason,
        }


@contextmanager
def promoting(tracking: Tracking, name: str, place: Path) -> Iterator[None]:
    """Keep others from moving the champion of a name while the block runs.

    ``place`` is the workspace's folder for the locks.

    Raises:
        InUse: another promotion of that name is under way.
    """
    check_name("model", name)
    place.mkdir(parents=True, exist_ok=True)
    with locked(place / name, exclusive=True):
        yield


def champion_of(tracking: Tracking, name: str) -> ModelVersion | None:
    """Return the champion of a registered name, ``None`` where it has none.

    Raises:
        ModelVersionNotFound: there is no such name.
    """
    try:
        return resolve(tracking, name)
    except ModelVersionNotFound:
        _champions(tracking.client(), name)
        return None


def promote(
    tracking: Tracking,
    challenger: ModelVersion,
    against: ModelVersion | None,
    evidence: Evidence | None,
    force: bool = False,
) -> Promotion:
    """Make a challenger champion if the evidence says that it is better, or by force.

    The caller holds :func:`promoting`. Where there is no champion yet none is needed. The version
    bears tags ``promotion.*``: who against whom, figures, interval, data and date. They are
    written before the alias is moved, which is one step: who reads it sees the old or the new
    champion. What a killed promotion left is tags of a version that is not champion.

    Raises:
        NotBetter: the interval of the difference is not above zero.
        InUse: the champion is another one than the one that was compared.
    """
    if against is not None and not force and (evidence is None or not evidence.better):
        raise _not_better(challenger, against, evidence)
    if champion_of(tracking, challenger.name) != against:
        raise InUse(
            f"{challenger.name}@{CHAMPION}",
            "was moved while the models were compared",
            "Compare with the new champion: run the job again.",
        )
    better = evidence is not None and evidence.better
    reason = "first" if against is None else "better" if better else "forced"
    tags = {
        "reason": reason,
        "against": against.version if against else "",
        "date": _now(),
        "code_revision": code_revision(),
    }
    tags |= evidence.tags() if evidence else {}
    client = tracking.client()
    _clear(client, challenger)
    for key, value in tags.items():
        client.set_model_version_tag(challenger.name, challenger.version, f"promotion.{key}", value)
    known = _known(client, challenger.name, against)
    _remember(client, challenger.name, [*known, challenger.version])
    client.set_registered_model_alias(challenger.name, CHAMPION, challenger.version)
    return Promotion(challenger, against, reason)


def take_back(tracking: Tracking, name: str) -> Promotion:
    """Make the champion before the present one champion again; again and again, up to the first.

    The caller holds :func:`promoting`. The version that was champion gets the tag
    ``promotion.taken_back`` with the date.

    Raises:
        ModelVersionNotFound: there is no champion, or none before it that is still registered.
    """
    present = resolve(tracking, name)
    client = tracking.client()
    known = _known(client, name, present)[:-1]
    while known:
        try:
            before = resolve(tracking, name, known[-1])
        except ModelVersionNotFound:  # deleted since
            known = known[:-1]
            continue
        client.set_model_version_tag(name, present.version, "promotion.taken_back", _now())
        client.set_registered_model_alias(name, CHAMPION, before.version)
        _remember(client, name, known)
        return Promotion(before, present, "taken back")
    raise ModelVersionNotFound(
        f"models:/{name}@{CHAMPION}",
        f"is version {present.version}, and no champion before it is known",
        "Name a version with jobs/promote.py --challenger VERSION --force.",
    )


def _not_better(
    challenger: ModelVersion, against: ModelVersion, evidence: Evidence | None
) -> NotBetter:
    words = evidence.words if evidence else "nothing was compared"
    why = f" ({evidence.unfair})" if evidence and evidence.unfair else ""
    return NotBetter(
        f"{challenger.name}/{challenger.version}",
        f"is not better than version {against.version}, the champion: {words}{why}",
        "Keep the champion, label more test blocks, or use --force.",
    )


def _champions(client: MlflowClient, name: str) -> list[str]:
    """Return the versions that are remembered, the newest last."""
    from mlflow.exceptions import MlflowException

    try:
        text = client.get_registered_model(name).tags.get(CHAMPIONS, "[]")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise ModelVersionNotFound(
            f"models:/{name}", "is not registered", "Register it with jobs/train.py --register."
        ) from error
    return [str(version) for version in json.loads(text)]


def _known(client: MlflowClient, name: str, present: ModelVersion | None) -> list[str]:
    """Return the champions up to the present one.

    What came after it is what a killed promotion left, or was taken back. A present one that is
    not remembered was made champion in another way: it follows the last one.
    """
    found = _champions(client, name)
    if present is None:
        return found
    if present.version not in found:
        return [*found, present.version]
    last = len(found) - 1 - found[::-1].index(present.version)
    return found[: last + 1]


def _remember(client: MlflowClient, name: str, versions: Sequence[str]) -> None:
    text = json.dumps(list(versions[-_REMEMBERED:]))
    client.set_registered_model_tag(name, CHAMPIONS, text)


def _clear(client: MlflowClient, version: ModelVersion) -> None:
    """Take away what an earlier promotion of the version says."""
    tags: Mapping[str, str] = client.get_model_version(version.name, version.version).tags
    for key in tags:
        if key.startswith("promotion."):
            client.delete_model_version_tag(version.name, version.version, key)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
