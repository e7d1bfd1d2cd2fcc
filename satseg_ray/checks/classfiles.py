"""Class files that labelling tools leave beside masks, and where they contradict the masks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from satseg_ray.classes import ClassTable

NAME = "classes.json"
FOLDERS_UP = 2


@dataclass(frozen=True)
class ClassFile:
    """A class file: its path, and the title and ``#RRGGBB`` colour of each of its classes."""

    path: str
    classes: tuple[tuple[str, str], ...]


def find_class_files(labels: Iterable[str]) -> tuple[ClassFile, ...]:
    """Return the class files in the folders of label files, and up to two folders above.

    They look like ``{"classes": [{"title": "Water", "color": "#50E3C2"}]}``; a ``classes.json`` of
    another kind is none.
    """
    folders: dict[Path, None] = {}
    for label in labels:
        folder = Path(label).parent
        folders |= dict.fromkeys([folder, *folder.parents[:FOLDERS_UP]])
    files = (_read(folder / NAME) for folder in sorted(folders))
    return tuple(file for file in files if file)


def _read(path: Path) -> ClassFile | None:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        rows = [(str(row["title"]), str(row["color"]).upper()) for row in body["classes"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    good = all(re.fullmatch(r"#[0-9A-F]{6}", color) for _, color in rows)
    return ClassFile(str(path), tuple(rows)) if rows and good else None


def contradictions(
    file: ClassFile, table: ClassTable, colors: Mapping[str, int]
) -> tuple[str, ...]:
    """Return in words where a class file disagrees with ``classes`` or with the masks.

    ``colors`` are the pixels of each ``#RRGGBB`` in the masks; empty where they hold values.
    """
    return tuple(_problems(file, table, colors))


def _problems(file: ClassFile, table: ClassTable, colors: Mapping[str, int]) -> Iterator[str]:
    declared = {_plain(item.name): item.color.upper() for item in table}
    for title, color in file.classes:
        ours = declared.get(_plain(title))
        if ours not in (None, color):
            there, here = _held(colors, color), _held(colors, str(ours))
            yield f"{title} is {color}{there} there and {ours}{here} in classes"
        elif colors and color not in colors:
            yield f"{title} is {color} there, which no pixel of the masks holds"


def _held(colors: Mapping[str, int], color: str) -> str:
    """Return in brackets how many pixels of the masks hold a colour."""
    if not colors:
        return ""
    return f" ({colors[color]:,} pixels)" if colors.get(color) else " (no pixel)"


def _plain(title: str) -> str:
    """Return a class's name without what stands in brackets, in small letters."""
    return re.sub(r"\(.*?\)", "", title).strip().casefold()
