"""One value of a prediction file as a prediction, or why it is none.

Reads and writes nothing. Every function returns `(prediction, "")` or `(None, reason)`; a reason
makes the question a counted failure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from stages.benchmarks.scorers.moments import Moments
from stages.benchmarks.scorers.retrieval import Place

WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.0+)?")
NOTHING = "no prediction"


def shown(value: Any) -> str:
    """`value` for a message, cut short."""
    words = repr(value)
    return words if len(words) <= 40 else words[:37] + "..."


def option_index(
    value: Any, num_options: int | None, *, text_is_number: bool
) -> tuple[int | None, str]:
    """An option's index.

    Args:
        value: As the file has it.
        num_options: How many there are; none: not known.
        text_is_number: Whether `"3"` is a number, as in tables and ClipBERT's files.
    """
    if value is None:
        return None, NOTHING
    if text_is_number and isinstance(value, str) and WHOLE_NUMBER.fullmatch(value.strip()):
        value = int(float(value))
    if isinstance(value, float):
        if not math.isfinite(value):
            return None, f"{value} is not an option's index"
        value = int(value) if value.is_integer() else value
    if isinstance(value, bool) or not isinstance(value, int):
        return None, f"{shown(value)} is not an option's index"
    if value < 0 or (num_options is not None and value >= num_options):
        last = "" if num_options is None else f"0 to {num_options - 1}"
        return None, f"option {value} is out of range {last}".rstrip()
    return value, ""


def answer_text(value: Any) -> tuple[str | None, str]:
    """An open-ended answer in words."""
    if value is None:
        return None, NOTHING
    if not isinstance(value, str):
        return None, f"{shown(value)} is not a text"
    return value, ""


def best_option(value: Any, num_options: int | None) -> tuple[int | None, str]:
    """The option of highest score, the first of equals; `specs/benchmarks.md` 10."""
    scores, reason = numbers(value)
    if scores is None:
        return None, reason
    if num_options is not None and len(scores) != num_options:
        return None, f"{len(scores)} scores for {num_options} options"
    if not scores:
        return None, NOTHING
    return scores.index(max(scores)), ""


def moments(value: Any) -> tuple[Moments | None, str]:
    """Windows with scores and, if given, one saliency score per clip.

    No list of windows is no prediction; an empty one is the prediction that there is none.
    """
    windows, saliency = value.get("windows"), value.get("saliency")
    if windows is None:
        return None, NOTHING
    if not isinstance(windows, list):
        return None, f"{shown(windows)} is not a list of windows"
    found = []
    for window in windows:
        triple, reason = numbers(window)
        if triple is None or len(triple) != 3:
            return None, f"window {shown(window)}: {reason or 'not [start, end, score]'}"
        if triple[1] < triple[0]:
            return None, f"window {shown(window)} ends before it starts"
        found.append((triple[0], triple[1], triple[2]))
    if saliency is None:
        return Moments(tuple(found)), ""
    scores, reason = numbers(saliency)
    if scores is None:
        return None, f"saliency: {reason}"
    return Moments(tuple(found), tuple(scores)), ""


def numbers(value: Any) -> tuple[list[float] | None, str]:
    """A list of finite numbers."""
    if value is None:
        return None, NOTHING
    if not isinstance(value, list):
        return None, f"{shown(value)} is not a list of numbers"
    for number in value:
        if isinstance(number, bool) or not isinstance(number, int | float):
            return None, f"{shown(number)} is not a number"
        if not math.isfinite(number):
            return None, f"a score is {number}"
    return [float(number) for number in value], ""


def ranked_video(value: Any, right: str, gallery: frozenset[str]) -> tuple[Place | None, str]:
    """Where the right video stands in a list of videos, best first.

    Videos that the list does not name are taken to be tied behind it.
    """
    if value is None:
        return None, NOTHING
    if not isinstance(value, list) or not all(isinstance(name, str | int) for name in value):
        return None, f"{shown(value)} is not a list of videos"
    names: Sequence[str] = [str(name) for name in value]
    if len(set(names)) < len(names):
        return None, "a video is named twice"
    strange = next((name for name in names if name not in gallery), None)
    if strange is not None:
        return None, f"{shown(strange)} is not one of the split's videos"
    if right in names:
        return Place(names.index(right)), ""
    return Place(len(names), tied=len(gallery) - len(names)), ""
