"""What a scene is read from: one file, or a stack of files, on its own grid or on a given one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from reprlib import Repr
from typing import Any, Literal, get_args

import yaml
from rasterio.crs import CRS
from rasterio.errors import CRSError

from satseg_ray.errors import ConfigError, MissingFile
from satseg_ray.geo.formats import is_remote

Resampled = Literal["nearest", "bilinear", "cubic", "average"]
Georeference = Literal["file", "xyz"]


@dataclass(frozen=True)
class BandFile:
    """One file of a scene.

    ``path`` is a path or a GDAL address; ``bands`` are 1-based, by default all but an alpha band;
    ``names`` are those of these bands, by default the file's own, or its stem for a single band.
    """

    path: str
    bands: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """The name of the file without folder and suffix."""
        return Path(self.path).stem


@dataclass(frozen=True)
class TargetGrid:
    """One grid for scenes of many CRSs.

    ``resolution`` is the side of a pixel in units of ``crs``; pixel edges lie at whole multiples
    of it, so that the pixels of two scenes on one grid coincide.
    """

    crs: str
    resolution: float


@dataclass(frozen=True)
class SceneSource:
    """What a scene is read from.

    ``reference`` is the path of the file whose grid is the scene's: by default that of the finest
    pixels, the first of equals. With ``grid`` the scene lies on that one instead. ``resampling``
    is how files on other grids are read, ``nodata`` replaces the files' own, and with
    ``georeference="xyz"`` the last three numbers of a file's name are x, y and zoom of a
    web-mercator tile.

    Law: ``SceneSource.from_dict(source.to_dict()) == source``.
    """

    files: tuple[BandFile, ...]
    reference: str | None = None
    grid: TargetGrid | None = None
    resampling: Resampled = "bilinear"
    nodata: float | None = None
    georeference: Georeference = "file"

    @property
    def path(self) -> str:
        """The path that stands for the scene: of the reference, or of the first file."""
        return self.reference or self.files[0].path

    @property
    def plain(self) -> bool:
        """Whether the scene is one file as it is, all of its bands."""
        return self.grid is None and self.files == (BandFile(self.files[0].path),)

    def within(self, folder: str | os.PathLike[str]) -> SceneSource:
        """Return the source with relative paths taken to be in ``folder``."""

        def placed(path: str) -> str:
            return path if is_remote(path) else os.path.join(folder, path)

        files = tuple(replace(file, path=placed(file.path)) for file in self.files)
        return replace(self, files=files, reference=self.reference and placed(self.reference))

    def to_dict(self) -> dict[str, Any]:
        """Return the source as JSON values; what is as by default is left out."""
        body: dict[str, Any] = _plain(self)
        return body

    @classmethod
    def from_dict(cls, body: Mapping[str, Any], subject: str = "scene") -> SceneSource:
        """Return the source that :meth:`to_dict` gave, or that a person wrote.

        Raises:
            ConfigError: a key is unknown or a value is not allowed; ``subject`` and key are named.
        """
        return _Parser(subject).source(body)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, BandFile | TargetGrid | SceneSource):
        given = ((field, getattr(value, field.name)) for field in fields(value))
        return {field.name: _plain(item) for field, item in given if item != field.default}
    return value


def scene_source(text: str | os.PathLike[str]) -> SceneSource:
    """Return the source that a person names: a path, a GDAL address, or a stack description.

    A stack description is a YAML file of the keys of :class:`SceneSource`, whose paths are
    relative to its folder::

        files:
          - {path: B02_10m.jp2, names: [blue]}
          - {path: B11_20m.jp2, names: [swir1]}
        nodata: 0

    Raises:
        MissingFile: there is no such description.
        ConfigError: a key of it is unknown, or a value is not allowed.
    """
    path = os.fspath(text)
    if is_remote(path) or Path(path).suffix.lower() not in (".yaml", ".yml"):
        return SceneSource((BandFile(path),))
    try:
        body = yaml.safe_load(Path(path).read_text("utf-8"))
    except FileNotFoundError as error:
        raise MissingFile(path, "there is no such file", "Check the path.") from error
    except RecursionError as error:
        raise ConfigError(path, "nests lists or keys too deep", "Correct it.") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        problem = " ".join(str(error).split())
        raise ConfigError(path, f"is no YAML ({problem})", "Correct it.") from error
    return SceneSource.from_dict(body, path).within(Path(path).resolve().parent)


@dataclass(frozen=True)
class _Parser:
    """Turns JSON values into a source, naming the file and the key of what is wrong."""

    subject: str

    def source(self, body: Any) -> SceneSource:
        self._keys(body, SceneSource, "")
        files = body.get("files")
        if not isinstance(files, Sequence) or isinstance(files, str) or not files:
            raise self._wrong("files", files, "Give a list of files.")
        source = SceneSource(
            files=tuple(self._file(item, f"files[{i}]") for i, item in enumerate(files)),
            reference=self._optional(body, "reference", str),
            grid=self._grid(body["grid"]) if body.get("grid") is not None else None,
            resampling=self._choice(body, "resampling", get_args(Resampled)),
            nodata=self._optional(body, "nodata", float),
            georeference=self._choice(body, "georeference", get_args(Georeference)),
        )
        if source.reference and source.reference not in {file.path for file in source.files}:
            raise self._wrong("reference", source.reference, "Name the path of one of files.")
        return source

    def _file(self, item: Any, key: str) -> BandFile:
        body = {"path": item} if isinstance(item, str) else item
        self._keys(body, BandFile, f"{key}.")
        if not isinstance(body.get("path"), str) or not body["path"]:
            raise self._wrong(f"{key}.path", body.get("path"), "Give a path.")
        bands = self._several(body.get("bands"), int, f"{key}.bands")
        names = self._several(body.get("names"), str, f"{key}.names")
        if any(band < 1 for band in bands):
            raise self._wrong(f"{key}.bands", list(bands), "Count bands from 1.")
        if bands and names and len(bands) != len(names):
            raise self._wrong(f"{key}.names", list(names), f"Name each of {len(bands)} bands.")
        return BandFile(body["path"], bands, names)

    def _grid(self, body: Any) -> TargetGrid:
        self._keys(body, TargetGrid, "grid.")
        crs, resolution = body.get("crs"), body.get("resolution")
        try:
            CRS.from_user_input(crs)
        except CRSError as error:
            raise self._wrong("grid.crs", crs, "Give a code as EPSG:32631, or WKT.") from error
        side = _number(resolution)
        if side is None or not 0 < side < float("inf"):
            raise self._wrong("grid.resolution", resolution, "Give a length above zero.")
        return TargetGrid(str(crs), side)

    def _keys(self, body: Any, kind: type[Any], prefix: str) -> None:
        known = [field.name for field in fields(kind)]
        if not isinstance(body, Mapping):
            raise self._wrong(prefix.rstrip(".") or "it", body, f"Give the keys {known}.")
        for key in body:
            if key not in known:
                raise ConfigError(
                    f"{self.subject}: {prefix}{key}", "is no key", f"Use {', '.join(known)}."
                )

    def _several(self, value: Any, kind: type[Any], key: str) -> tuple[Any, ...]:
        if value is None:
            return ()
        items = value if isinstance(value, list | tuple) else [value]
        if not all(_is(item, kind) for item in items):
            raise self._wrong(key, value, f"Give a list of {kind.__name__}.")
        return tuple(items)

    def _optional(self, body: Mapping[str, Any], key: str, kind: type[Any]) -> Any:
        value = body.get(key)
        if value is not None and not _is(value, kind):
            raise self._wrong(key, value, f"Give one {kind.__name__}.")
        return None if value is None else kind(value)

    def _choice(self, body: Mapping[str, Any], key: str, allowed: tuple[str, ...]) -> Any:
        value = body.get(key, getattr(SceneSource, key))
        if value not in allowed:
            raise self._wrong(key, value, f"Use one of {', '.join(allowed)}.")
        return value

    def _wrong(self, key: str, value: Any, remedy: str) -> ConfigError:
        return ConfigError(f"{self.subject}: {key}", f"is {_SHORT.repr(value)}", remedy)


_SHORT = Repr()
"""Shows what was written, in bounded length: aliases of YAML make much of little."""
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxother = 200


def _is(value: Any, kind: type[Any]) -> bool:
    if kind is float:
        return _number(value) is not None
    return isinstance(value, kind) and not isinstance(value, bool)


def _number(value: Any) -> float | None:
    """Return a number, also one written as text: YAML reads ``1e-9`` as such; None of others.

    >>> _number("1e-9"), _number(10**400), _number(True), _number("many")
    (1e-09, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def tile_numbers(path: str) -> tuple[int, int, int]:
    """Return x, y and zoom: the last three whole numbers in the stem of a file's name.

    Raises:
        ConfigError: the name has no such numbers, or they name no tile.

    >>> tile_numbers("tiles/OAM-611-1022-11.png")
    (611, 1022, 11)
    """
    numbers = [int(text) for text in re.findall(r"\d+", Path(path).stem)[-3:]]
    if len(numbers) == 3:
        x, y, zoom = numbers
        if zoom <= 30 and max(x, y) < 1 << zoom:
            return x, y, zoom
    raise ConfigError(
        path,
        "has no x, y and zoom of a tile at the end of its name",
        "Name it like tile-611-1022-11.png, or use georeference: file.",
    )
