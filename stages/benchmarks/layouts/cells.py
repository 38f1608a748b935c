"""Values of one record, checked: text, identifiers, times, indices, lists of options.

Each function takes the record and the field's name and refuses a value with a `DataError` whose
message is `field: reason`.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from stages.benchmarks.annotation_files import Record
from stages.benchmarks.questions import refuse

WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.0)?")
OPTION_COLUMN = re.compile(r"a[0-9]+")


def shown(value: Any) -> str:
    """`value` for a message, cut short."""
    words = repr(value)
    return words if len(words) <= 60 else words[:57] + "..."


def text(record: Record, key: str) -> str:
    """A text that has to be there (it may be empty; `Question` decides)."""
    value = record.get(key)
    if isinstance(value, str):
        return value
    raise refuse(key, "missing" if value is None else f"{shown(value)} is not text")


def filled_text(record: Record, key: str) -> str:
    """A text that has to be there and to say something."""
    value = text(record, key)
    if not value.strip():
        raise refuse(key, "empty")
    return value


def optional_text(record: Record, key: str) -> str | None:
    """A text, or none where it is missing or empty."""
    value = record.get(key)
    return None if value is None or value == "" else text(record, key)


def name(record: Record, key: str) -> str:
    """An identifier: text without outer blanks, or a whole number."""
    value = record.get(key)
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text(record, key)


def seconds(record: Record, key: str) -> float | None:
    """A time in seconds, as a number or in text; none where it is missing."""
    value = record.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise refuse(key, f"{shown(value)} is not a time in seconds")
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise refuse(key, f"{shown(value)} is not a time in seconds") from None


def index(record: Record, key: str) -> int | None:
    """An option's index; a CSV cell `2.0` is one too (a table that once had a gap)."""
    value = record.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and WHOLE_NUMBER.fullmatch(value.strip()):
        return int(value.strip().removesuffix(".0"))
    raise refuse(key, f"{shown(value)} is not an option's index")


def option_columns(record: Record) -> tuple[str, ...]:
    """The texts of a0, a1, ... in order, without a gap."""
    count = sum(1 for key in record if OPTION_COLUMN.fullmatch(key))
    return tuple(text(record, f"a{number}") for number in range(count))


def option_list(value: Any) -> tuple[str, ...]:
    """The texts of a JSON list, also where a table's cell holds the list as text."""
    if value is None or value == "":
        return ()
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _decoded(value)
    if not isinstance(value, list) or not all(isinstance(option, str) for option in value):
        raise refuse("options", f"{shown(value)} is not a list of texts")
    if len(value) < 2:
        raise refuse("options", f"{len(value)} options; leave the field out if open-ended")
    return tuple(value)


def _decoded(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def spans(value: Any, key: str = "spans") -> tuple[tuple[float, float], ...]:
    """[[start, end], ...] in seconds; empty where it is missing."""
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        value = _decoded(value)
    if not isinstance(value, list):
        raise refuse(key, f"{shown(value)} is not a list of [start, end]")
    return tuple(span(pair, key) for pair in value)


def span(pair: Any, key: str) -> tuple[float, float]:
    """[start, end] in seconds."""
    if isinstance(pair, list | tuple) and len(pair) == 2:
        low, high = seconds({key: pair[0]}, key), seconds({key: pair[1]}, key)
        if low is not None and high is not None:
            return low, high
    raise refuse(key, f"{shown(pair)} is not [start, end]")


def time_range(record: Record, key: str, separator: str = "-") -> tuple[float, float]:
    """`36.58-58.52` or [36.58, 58.52]; `nan` where the file says so, see `known_times`."""
    value = record.get(key)
    if isinstance(value, str):
        value = value.strip().removeprefix("[").removesuffix("]").split(separator)
    return span(value, key)


def known_times(
    start: float | None, end: float | None
) -> tuple[float | None, float | None, tuple[str, ...]]:
    """Start and end, both none if one is NaN, and then a note for the warnings.

    TVQA's test file has questions with the times `NaN-NaN`; they have to be answered all the same,
    and all that is known is that the evidence is somewhere in the video.
    """
    if any(second is not None and math.isnan(second) for second in (start, end)):
        return None, None, ("the clip's times are NaN, the whole video is taken",)
    return start, end, ()


def mapping(record: Record, key: str) -> Record:
    """An object within the record."""
    value = record.get(key)
    if isinstance(value, dict):
        return value
    raise refuse(key, "missing" if value is None else f"{shown(value)} is not an object")


def names(record: Record, key: str) -> tuple[str, ...]:
    """One text or a list of texts; empty where it is missing."""
    value = record.get(key)
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise refuse(key, f"{shown(value)} is not a list of texts")
    return tuple(value)
