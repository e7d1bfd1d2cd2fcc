"""List, compare and restore versions of data sets, or reproduce what was made of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from satseg_ray.config import DataConfig
from satseg_ray.errors import ConfigError
from satseg_ray.progress import say
from satseg_ray.tracking.datastore import DataStore
from satseg_ray.tracking.history import Change, DatasetVersion, difference, versions
from satseg_ray.workspace import Workspace, checked_dataset


def data(config: DataConfig) -> Mapping[str, Any]:
    """Do what ``config.action`` says and tell it in words on stderr.

    Raises:
        ConfigError: the action needs a key that is not given.
        DatasetVersionNotFound: no such version.
        InUse: a job reads or writes the data set.
    """
    if config.dataset:
        checked_dataset(config.dataset)
    actions = {"versions": _list, "checkout": _checkout, "diff": _diff, "reproduce": _reproduce}
    return {"action": config.action} | actions[config.action](config)


def _list(config: DataConfig) -> dict[str, Any]:
    store = DataStore.of(Workspace.resolve())
    store.recover()
    found = versions(store, config.dataset)
    _tell_table(found)
    return {"versions": [version.to_dict() for version in found]}


def _checkout(config: DataConfig) -> dict[str, Any]:
    dataset, version = _given(config, "dataset"), _given(config, "version")
    done = _opened().checkout(dataset, version)
    say(
        f"{dataset} is that of {version}, as {done.tag}"
        if done.changed
        else f"{dataset} was that of {version} already; missing files are back"
    )
    return {
        "dataset": dataset,
        "restored": version,
        "tag": done.tag,
        "revision": done.revision,
        "changed": done.changed,
    }


def _diff(config: DataConfig) -> dict[str, Any]:
    dataset, version = _given(config, "dataset"), _given(config, "version")
    found = difference(_opened(), dataset, version, config.to)
    say(f"{dataset}, from {found.old} to {found.new}")
    for what, change in (
        ("scenes", found.scenes), ("labels", found.labels), ("classes", found.classes)
    ):  # fmt: skip
        say(f"  {what:9}{_words(change)}")
    for split, patches in found.patches.items():
        words = f"added {patches.added}; gone {patches.gone}"
        say(f"  {split:9}{patches.before} -> {patches.after} patches: {words}")
    return {"dataset": dataset} | found.to_dict()


def _reproduce(config: DataConfig) -> dict[str, Any]:
    dataset = _given(config, "dataset")
    done = _opened().reproduce(dataset)
    say(f"{dataset} is reproduced: {done.tag}{'' if done.changed else ', nothing changed'}")
    return {
        "dataset": dataset,
        "tag": done.tag,
        "revision": done.revision,
        "changed": done.changed,
    }


def _opened() -> DataStore:
    return DataStore.open(Workspace.resolve())


def _given(config: DataConfig, key: str) -> str:
    value: str | None = getattr(config, key)
    if value is None:
        raise ConfigError(key, f"is needed for {config.action}", f"Give it by --{key}.")
    return value


def _tell_table(found: Sequence[DatasetVersion]) -> None:
    if not found:
        say("no versions yet: ingest makes the first")
        return
    rows = [("version", "revision", "date", "raw data", "scenes", "patches", "count", "")]
    rows += [
        (
            version.tag,
            version.revision[:10],
            version.date,
            _digest(version.content),
            "" if version.scenes is None else str(version.scenes),
            _digest(version.patches_content),
            "" if version.patches is None else str(version.patches),
            f"of older raw data, {_digest(version.patches_from)}" if version.is_behind else "",
        )
        for version in found
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join(c.ljust(width) for c, width in zip(row, widths, strict=True)).rstrip())


def _digest(content: str | None) -> str:
    """Return a content without the name of its data set."""
    return (content or "").rpartition("@")[2]


def _words(change: Change) -> str:
    named = {"added": change.added, "gone": change.gone, "changed": change.changed}
    parts = [
        f"{word} {len(names)} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
        for word, names in named.items()
        if names
    ]
    return "; ".join(parts) or "the same"
