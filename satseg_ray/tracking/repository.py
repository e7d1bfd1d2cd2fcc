"""A git + DVC work tree, by the two command lines; made on first use, killed at any point."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from satseg_ray.errors import DatasetVersionNotFound, MissingFile, UnwritableProduct
from satseg_ray.products import fresh_file, locked
from satseg_ray.tracking.dvc_config import DvcConfig

_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
# A detached gc would hold on to the locks that it inherits
_PLAIN = (
    "-c", "user.name=satseg_ray", "-c", "user.email=satseg_ray@localhost",
    "-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "core.hooksPath=/dev/null",
    "-c", "core.autocrlf=false", "-c", "tag.gpgSign=false", "-c", "commit.gpgSign=false",
)  # fmt: skip
# One start of DVC, half a second, for several commands
_DVC = (
    "import json, sys\n"
    "from dvc.cli import main\n"
    "for command in json.loads(sys.argv[1]):\n"
    "    if code := main(command):\n"
    "        sys.exit(code)\n"
)
_ADVERTS = "Having any troubles?"  # and where to ask DVC's makers
REMEDY_OF_LOSS = (
    "If a remote has them, name it by 'dvc remote add --default' in data/ and run 'dvc fetch "
    "--all-commits'; else ingest and tile the same inputs again."
)
_LOST = "error.dvc.org/missing-files"
_GIT_IGNORE = "/patches/\n/pipelines/*/model.json\n.*.partial\n.*.lock\n"
_RAW_IGNORE = "/*/\n"  # in raw/ itself: DVC does not look into a folder that /raw/*/ names
# A hard link first makes DVC link into its cache as well: no second copy on the disk
_CONFIG = """[core]
    analytics = false
    check_update = false
[cache]
    type = "hardlink,copy"
"""


@dataclass(frozen=True)
class GitUse:
    """What one git command uses instead of the work tree's own files, and its clock.

    ``bare``: git finds the repository by its arguments alone.
    """

    index: Path | None = None
    tree: Path | None = None
    date: str | None = None
    bare: bool = False


@dataclass(frozen=True)
class Repository:
    """The work tree at ``root``; ``held`` are locks that its git processes inherit.

    So a lock ends with the last process that changes the work tree under it, also where the job
    that started that process was killed.
    """

    root: Path
    held: tuple[int, ...] = ()

    @property
    def git_directory(self) -> Path:
        """Where git keeps its objects."""
        return self.root / ".git"

    @property
    def scratch(self) -> Path:
        """A folder on the same disk that neither git nor DVC tracks."""
        return self.root / ".dvc" / "tmp" / "satseg"

    def created(self) -> Repository:
        """Return the repository after making what is missing of it.

        ``.git`` comes last, with a first commit in it: a work tree that has it is complete.

        Raises:
            UnwritableProduct: there is no space for it, or no right to write.
        """
        if not self.git_directory.is_dir():
            self.root.mkdir(parents=True, exist_ok=True)
            with locked(self.root / "repository", exclusive=True, wait=True) as held:
                if not self.git_directory.is_dir():
                    Repository(self.root, (*self.held, *held))._create()
        self.scratch.mkdir(parents=True, exist_ok=True)
        return self

    def _create(self) -> None:
        side = self.root / ".repository.partial"
        shutil.rmtree(side, ignore_errors=True)
        for folder in (".dvc", "raw"):
            (side / folder).mkdir(parents=True)
        files = {
            ".dvc/config": _CONFIG,
            ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
            ".dvcignore": "",
            ".gitignore": _GIT_IGNORE,
            "raw/.gitignore": _RAW_IGNORE,
        }
        for name, text in files.items():
            (side / name).write_text(text, encoding="utf-8")
        draft = Repository(side, self.held)
        draft.git("init", "--quiet", "--initial-branch=main", str(side), use=GitUse(bare=True))
        draft.git("add", "--force", "--", *files)
        draft.git("commit", "--quiet", "-m", "Begin to version data sets")
        for name in files:
            target = self.root / name
            target.parent.mkdir(exist_ok=True)
            if not target.exists():
                with fresh_file(target) as partial:
                    partial.write_bytes((side / name).read_bytes())
        (side / ".git").rename(self.git_directory)
        shutil.rmtree(side)

    def git(self, *arguments: str, text: str = "", use: GitUse | None = None) -> str:
        """Run git with ``text`` as its input; return what it prints, without the last newline.

        Raises:
            UnwritableProduct: git failed.
        """
        use = use or GitUse()
        tree = use.tree or self.root
        more: dict[str, str] = {}
        if not use.bare:
            more |= {"GIT_DIR": str(self.git_directory), "GIT_WORK_TREE": str(tree)}
        if use.index:
            more["GIT_INDEX_FILE"] = str(use.index)
        if use.date:
            more |= {"GIT_AUTHOR_DATE": use.date, "GIT_COMMITTER_DATE": use.date}
        done = self._run(["git", *_PLAIN, *arguments], tree, more, text, self.held)
        if done.returncode:
            raise _failed(self.root, f"git {arguments[0]}", done.stderr)
        return done.stdout.removesuffix("\n")

    def asks(self, *arguments: str) -> str | None:
        """Return the answer of a git command, or ``None`` where it fails."""
        try:
            return self.git(*arguments)
        except UnwritableProduct:
            return None

    def dvc(self, tree: Path, *commands: Sequence[str]) -> None:
        """Run DVC commands, one after the other, in the side tree ``tree``.

        They hold no lock of ours: whatever DVC still does there after its job was killed touches a
        folder that nobody reads, and a cache to which files are only added, each in one step.

        Raises:
            UnwritableProduct: one of them failed.
        """
        more = {
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(tree / ".dvc" / "tmp" / "site"),
        }
        arguments = json.dumps([list(command) for command in commands])
        done = self._run([sys.executable, "-c", _DVC, arguments], tree, more)
        if done.returncode:
            raise _failed(self.root, f"dvc {commands[0][0]}", done.stderr)

    def _run(
        self,
        command: Sequence[str],
        folder: Path,
        more: Mapping[str, str],
        text: str = "",
        held: tuple[int, ...] = (),
    ) -> subprocess.CompletedProcess[str]:
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=clean_environment() | dict(more),
                input=text.encode("utf-8", "surrogateescape"),
                capture_output=True,
                pass_fds=held,
                check=False,
            )
        except FileNotFoundError as error:
            if folder.is_dir():
                raise MissingFile(command[0], "is not installed", "Install it.") from error
            raise
        # As bytes: text would lose what ends a line
        said = (t.decode("utf-8", "surrogateescape") for t in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(command, done.returncode, *said)

    def resolve(self, revision: str) -> str:
        """Return the hash of the commit that a user's word names.

        Raises:
            DatasetVersionNotFound: it names none, or is no word for one.
        """
        good = _REVISION.fullmatch(revision) and ".." not in revision
        wanted = ("--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        found = self.asks("rev-parse", *wanted) if good else None
        if not found:
            raise DatasetVersionNotFound(
                revision, "is no version here", "List them by jobs/data.py versions."
            )
        return found

    def file_at(self, revision: str, path: str) -> str | None:
        """Return a tracked text file as it was, or ``None`` where it was not there."""
        return self.files_in([f"{revision}:{path}"])[0]

    def files_in(self, names: Sequence[str]) -> list[str | None]:
        """Return text files by ``revision:path``, ``None`` for one that is not there.

        One git for all of them.
        """
        asked = "".join(f"{name}\n" for name in names)
        answer = self.git("cat-file", "--batch", text=asked).encode("utf-8", "surrogateescape")
        found: list[str | None] = []
        for _ in names:
            header, _, answer = answer.partition(b"\n")
            if header.endswith(b" missing"):
                found.append(None)
                continue
            size = int(header.split()[-1])
            found.append(answer[:size].decode("utf-8", "surrogateescape"))
            answer = answer[size + 1 :]
        return found

    def files_at(self, revision: str, *paths: str) -> list[str]:
        """Return the tracked files at or below ``paths`` as they were."""
        listed = self.git("ls-tree", "-r", "-z", "--name-only", revision, "--", *paths)
        return [name for name in listed.split("\0") if name]

    def side_tree(self, folder: Path) -> None:
        """Make ``folder`` a DVC work tree without git that shares this one's cache and remotes."""
        self.dvc_config.write_beside(folder)

    @property
    def dvc_config(self) -> DvcConfig:
        """What DVC is told here."""
        return DvcConfig.read(self.root)

    @property
    def cache(self) -> Path:
        """Where DVC keeps the files of all versions."""
        return self.dvc_config.cache


def clean_environment() -> dict[str, str]:
    """Return this process's environment without what leads git or DVC to another repository."""
    kept = ("DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in kept or not name.startswith(("GIT_", "DVC_"))
    }
    plain = {"LC_ALL": "C.UTF-8", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    return environment | plain | {"GIT_TERMINAL_PROMPT": "0"}


def _failed(root: Path, what: str, stderr: str) -> UnwritableProduct:
    said = (line.strip() for line in stderr.splitlines())
    lines = [line for line in said if line and not line.startswith(_ADVERTS)]
    if _LOST in stderr:
        return UnwritableProduct(
            root,
            f"{what} finds files that are neither in the cache nor in a remote",
            REMEDY_OF_LOSS,
        )
    return UnwritableProduct(
        root, f"{what} failed ({'; '.join(lines[-3:]) or 'it said nothing'})",
        "Look at the disk's space and rights, and at 'git fsck' and 'dvc doctor' there.",
    )  # fmt: skip
