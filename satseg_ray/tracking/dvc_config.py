"""What DVC is told in a work tree, by the files of the system, the user, the tree and its clone."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satseg_ray.errors import DAMAGED, UnwritableProduct, told

_SIDE = {"no_scm": "true", "analytics": "false", "check_update": "false"}


@dataclass(frozen=True)
class DvcConfig:
    """DVC's settings for a work tree, merged as DVC merges them; paths are absolute."""

    root: Path
    settings: dict[str, Any]

    @classmethod
    def read(cls, root: Path) -> DvcConfig:
        """Return the settings of the work tree at ``root``.

        Raises:
            UnwritableProduct: one of the files is broken.
        """
        from dvc.config import Config, ConfigError
        from voluptuous import Invalid

        try:
            config = Config(str(root / ".dvc"), validate=False)
            return cls(root, {name: dict(section) for name, section in config.items()})
        except (ConfigError, Invalid, *DAMAGED) as error:
            raise UnwritableProduct(
                root / ".dvc" / "config",
                f"or the user's own settings of DVC cannot be read ({told(error).rstrip('.')})",
                "Mend it, or take back the committed one by 'git checkout .dvc/config' in data/.",
            ) from error

    @property
    def cache(self) -> Path:
        """Where DVC keeps the files of all versions."""
        found = self.settings.get("cache", {}).get("dir")
        return Path(os.path.expanduser(found)) if found else self.root / ".dvc" / "cache"

    @property
    def has_remotes(self) -> bool:
        """Whether what is missing in the cache may be elsewhere."""
        return bool(self.settings.get("remote"))

    @property
    def links_hard(self) -> bool:
        """Whether files are to share their bytes with the cache, by hard links."""
        links = self.settings.get("cache", {}).get("type", "")
        first = (links if isinstance(links, list) else str(links).strip("\"'").split(","))[0]
        return str(first).strip() == "hardlink"

    def write_beside(self, folder: Path) -> None:
        """Make ``folder`` a DVC work tree without git that has these settings."""
        from dvc.config import Config

        (folder / ".dvc").mkdir(parents=True)
        core = {k: v for k, v in self.settings.get("core", {}).items() if k != "autostage"}
        cache = self.settings.get("cache", {}) | {"dir": str(self.cache)}
        if self.links_hard and _can_link(folder / ".dvc", self.cache):
            # Given the choice DVC would leave a copy of what is in its cache already
            cache["type"] = "hardlink"
        side = Config(str(folder / ".dvc"), validate=False)
        with side.edit("repo", validate=False) as written:
            written.update(self.settings | {"core": core | _SIDE, "cache": cache})


def _can_link(folder: Path, other: Path) -> bool:
    """Tell whether a file of ``folder`` can have a second name in ``other``."""
    source, link = folder / "tried", other / f".{secrets.token_hex(8)}.tried"
    other.mkdir(parents=True, exist_ok=True)
    source.touch()
    try:
        os.link(source, link)
        link.unlink()
        return True
    except OSError:
        return False
    finally:
        source.unlink()
