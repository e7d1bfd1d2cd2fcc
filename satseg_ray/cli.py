"""From a job script to an exit code: config, run, one JSON line on stdout."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from satseg_ray.config import Config, load_config
from satseg_ray.errors import Interrupted, SatsegError
from satseg_ray.process import prepare_process
from satseg_ray.progress import say


def main(
    kind: type[Config],
    job: str,
    script: str,
    arguments: list[str] | None = None,
) -> Mapping[str, Any]:
    """Run a job and return its result, or exit with the code of its error.

    ``job`` is ``module:function``, imported once the config is known to be good: a wrong flag
    is told in a second, and the libraries see the environment that is set here.
    The YAML beside ``script`` holds the defaults. Progress goes to stderr; the result, or the
    error, is the last line on stdout, as JSON.
    """
    prepare_process()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        config = load_config(
            kind,
            Path(script).with_suffix(".yaml"),
            sys.argv[1:] if arguments is None else arguments,
        )
        result = _imported(job)(config)
    except KeyboardInterrupt as stop:
        reason = f"was stopped by {stop.args[0] if stop.args else 'a signal'}"
        _fail(Interrupted("job", reason, "Start it again with the same command."))
    except SatsegError as error:
        _fail(error)
    except Exception as error:
        from satseg_ray.tracking.runs import unanswered  # only now: a wrong flag is told at once

        if away := unanswered(error):
            _fail(away)
        raise
    print(json.dumps(result, default=str), flush=True)
    return result


def _fail(error: SatsegError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr, flush=True)
    print(json.dumps(error.to_dict()), flush=True)
    sys.exit(error.exit_code)


def call_job(script: Path, config: Path, *flags: str) -> dict[str, Any]:
    """Run a job script in a process of its own, as a user does, and return its result.

    Adds ``seconds``. Exits with the job's own code where it fails; the job has said why.
    """
    command = [sys.executable, str(script), "--config", str(config), *flags]
    say(f"\n$ {' '.join(command)}")
    start = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result | {"seconds": round(time.monotonic() - start, 1)}


def _imported(job: str) -> Callable[[Any], Mapping[str, Any]]:
    module, _, name = job.partition(":")
    function: Callable[[Any], Mapping[str, Any]] = getattr(importlib.import_module(module), name)
    return function


def _interrupt(number: int, frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    # Ray passes this one on from inside a wait, and drops every other
    raise KeyboardInterrupt(name)
