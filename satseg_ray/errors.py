"""Every error a user can cause or meet: one base, facts as names, a remedy in the message."""

from __future__ import annotations

from typing import Any


class SatsegError(Exception):
    """Base of all errors of this package.

    A subclass states a fact, fixes the exit code of a job that meets it and the HTTP status of a
    request that does. ``subject`` is the file or field, ``problem`` what is wrong with it (with
    the value found), ``remedy`` what to do.

    >>> str(BandMismatch("a.tif", "has 3 bands, the model reads band 4", "Use a 4-band scene."))
    'a.tif: has 3 bands, the model reads band 4. Use a 4-band scene.'
    """

    exit_code = 1
    http_status = 500

    def __init__(self, subject: object, problem: str, remedy: str) -> None:
        super().__init__(str(subject), problem, remedy)
        self.subject = str(subject)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.subject}: {self.problem}. {self.remedy}"

    def to_dict(self) -> dict[str, object]:
        """Return the error as JSON values, for a job's result line."""
        return {
            "error": type(self).__name__,
            "subject": self.subject,
            "problem": self.problem,
            "remedy": self.remedy,
            "exit_code": self.exit_code,
        }


def told(error: Exception) -> str:
    """Return what a library says of a damaged file, as part of a sentence.

    >>> told(KeyError("name"))
    "no 'name'"
    """
    text = " ".join(str(error).split())
    return f"no {text}" if isinstance(error, KeyError) else text


DAMAGED = (ValueError, KeyError, TypeError, AttributeError)
"""What reading raises where a file has other keys and values than those that were written."""


def keys_of(body: object) -> dict[str, Any]:
    """Return what a file of keys holds.

    Raises:
        ValueError: it holds something else.
    """
    if not isinstance(body, dict):
        raise ValueError("it is empty" if body is None else f"it holds a {type(body).__name__}")
    return body


class ConfigError(SatsegError):
    """A configuration names an unknown key or a value that is not allowed."""

    exit_code = 2
    http_status = 422


class MissingFile(SatsegError):
    """A path or pattern names no file."""

    exit_code = 10
    http_status = 404


class UnreadableRaster(SatsegError):
    """A file is no raster, is damaged, or claims a size that its bytes cannot hold."""

    exit_code = 11
    http_status = 422


class BandMismatch(SatsegError):
    """A scene has other bands than the data set or the model asks for."""

    exit_code = 12
    http_status = 422


class LabelsDoNotMatch(SatsegError):
    """A label raster is missing, or lies on another grid than its scene."""

    exit_code = 13
    http_status = 422


class UnknownClassValue(SatsegError):
    """A label raster holds a value or a colour that the class table does not name."""

    exit_code = 14
    http_status = 422


class DatasetNotFound(SatsegError):
    """The workspace has no data set, or no patches, of that name."""

    exit_code = 15
    http_status = 404


class EmptySplit(SatsegError):
    """A split that is needed holds no patch, or labels of fewer than two classes."""

    exit_code = 16
    http_status = 422


class ModelVersionNotFound(SatsegError):
    """The registry has no model of that name, version or alias."""

    exit_code = 17
    http_status = 404


class TrainingFailed(SatsegError):
    """Training ended without a model."""

    exit_code = 18


class Diverged(TrainingFailed):
    """The loss is no number: the same training would end in the same way again."""


class TilesFailed(SatsegError):
    """Some tiles of a job could not be processed; the report names each of them."""

    exit_code = 19


class UnwritableProduct(SatsegError):
    """A result could not be written; nothing of it is left."""

    exit_code = 20


class InUse(SatsegError):
    """A data set or a product is being read or written by another job."""

    exit_code = 21
    http_status = 409


class UnreadableLabels(SatsegError):
    """A file of shapes is damaged, of no known kind, or larger than what is held in memory."""

    exit_code = 22
    http_status = 422


class DatasetVersionNotFound(SatsegError):
    """The workspace has no version of a data set under that name."""

    exit_code = 23
    http_status = 404


class UnreadableProfile(SatsegError):
    """A profile is missing, or its file holds none."""

    exit_code = 24
    http_status = 422


class ChecksFailed(SatsegError):
    """A data set as a whole has an error, or with ``strict`` a warning; the report has them all."""

    exit_code = 25
    http_status = 422


class SourceChanged(SatsegError):
    """A scene that a data set refers to is no longer what was ingested."""

    exit_code = 26
    http_status = 409


class NotBetter(SatsegError):
    """A challenger is not better than the champion by the interval of their difference."""

    exit_code = 27
    http_status = 409


class TrackingUnavailable(SatsegError):
    """MLflow does not answer, after all tries."""

    exit_code = 28
    http_status = 503


class Interrupted(SatsegError):
    """A job was stopped by a signal."""

    exit_code = 130
