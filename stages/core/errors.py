"""Everything that can go wrong and is told to a person in one sentence.

    VqaError                        exit code
    +-- UsageError (ValueError)         2   impossible or ambiguous request
    +-- ConfigError (ValueError)        3   unknown key, wrong value
    +-- DataError (ValueError)          3   a file's content: file, row, field
    |   +-- VideoError                  3   one video: path and the decoder's own words
    |   +-- ArtifactVersionError        3   older: how to rebuild; newer: update vqa
    +-- MissingInput (FileNotFoundError)4   an artifact, weights or videos: what makes them
    +-- MachineError (OSError)          5   disk full, memory, no such device
    |   +-- OutOfMemory                 5   a batch that a smaller one may go on from
    +-- MissingExtra (ImportError)      5   an optional package and the pip command
    +-- VerificationError (RuntimeError)6   bytes on disk are not what the manifest says
    +-- DivergenceError (ArithmeticError) 3 a loss is not finite: step and question ids

A message says what and where; `hint` says what to do next. Errors stay picklable because worker
processes raise them across process borders.
"""

from __future__ import annotations

from pathlib import Path


class VqaError(Exception):
    """Base of all errors that `vqa` explains itself.

    Args:
        message: What happened and where.
        hint: What to do next, often a command; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[VqaError], tuple[str, str]]:
        return type(self), (self.message, self.hint)

    def __str__(self) -> str:
        return self.message


class UsageError(VqaError, ValueError):
    """The request cannot be carried out as written, or could mean several things."""

    exit_code = 2


class ConfigError(VqaError, ValueError):
    """A configuration key is unknown or its value is impossible."""

    exit_code = 3


class DataError(VqaError, ValueError):
    """A file's content is not what it should be; names the file, the row and the field."""

    exit_code = 3


class VideoError(DataError):
    """One video cannot be read; carries the decoder's own words."""


class ArtifactVersionError(DataError):
    """An artifact was written in a format that this version does not read."""


class MissingInput(VqaError, FileNotFoundError):
    """An artifact, weights file or video folder is not there."""

    exit_code = 4


class MachineError(VqaError, OSError):
    """The machine cannot do it: disk, memory or device."""

    exit_code = 5


class OutOfMemory(MachineError):
    """What was computed at once found no memory; half of it might."""


class MissingExtra(VqaError, ImportError):
    """An optional package is needed; the hint is the pip command."""

    exit_code = 5


class VerificationError(VqaError, RuntimeError):
    """Bytes on disk differ from the manifest's checksums."""

    exit_code = 6


class DivergenceError(VqaError, ArithmeticError):
    """Training met a loss or gradient that is not finite; names the step and the questions."""

    exit_code = 3


def read_text_or_explain(path: Path, what: str, hint: str = "") -> str:
    """The text of `path`, or `MissingInput` naming `what` it was meant to be."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingInput(f"{what} not found: {path}", hint) from None
    except IsADirectoryError:
        raise DataError(f"{what} is a directory, not a file: {path}", hint) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{what} is not UTF-8 text: {path} ({error})", hint) from None
