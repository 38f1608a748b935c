"""The shown questions as JSON that the page's script reads, with nothing a browser could run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from markupsafe import Markup

from stages.report_page.model import Answer, Page, Shown, Strip
from stages.report_page.plots import look_of

MOST_PICKED = 4
"""Systems side by side when the page opens."""

Json = dict[str, Any]


def questions_json(page: Page) -> Markup:
    """Questions, strips and systems for a `<script type="application/json">`."""
    return script_json(
        {
            "systems": [
                {
                    "name": item.name,
                    "color": look_of(place).color,
                    "shape": look_of(place).shape,
                    **({"blind": item.blind} if item.blind else {}),
                }
                for place, item in enumerate(page.systems)
            ],
            "picked": first_picked(page),
            "total": page.num_questions,
            "strips": [_strip(item) for item in page.strips],
            "questions": [_question(item) for item in page.shown],
        }
    )


def script_json(value: Any) -> Markup:
    """JSON without a character that HTML or an old script parser gives a meaning to."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def first_picked(page: Page) -> list[int]:
    """Systems to show first, in the table's order.

    Those that chose frames by themselves tell most: the best of each family, then the next best.
    """
    places = range(len(page.systems))
    if len(page.systems) <= MOST_PICKED:
        return list(places)
    best = sorted(places, key=lambda place: -_known(page.systems[place].value))
    leading = {page.systems[place].family: place for place in reversed(best) if _chose(page, place)}
    best.sort(key=lambda place: (place not in leading.values(), not _chose(page, place)))
    return sorted(best[:MOST_PICKED])


def _chose(page: Page, place: int) -> bool:
    item = page.systems[place]
    fewer = item.keep is not None and item.frames is not None and item.keep < item.frames
    return fewer and item.blind is None and item.select != "oracle"


def _known(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else -math.inf


def _question(item: Shown) -> Json:
    return _present(
        {
            "key": item.key,
            "id": item.question_id,
            "video": item.video,
            "type": item.type,
            "text": item.text,
            "options": item.options,
            "truth": item.truth,
            "truthText": item.truth_text,
            "spans": [_numbers(span, 3) for span in item.spans],
            "strip": item.strip,
            "answers": [_answer(answer) for answer in item.answers],
        }
    )


def _answer(answer: Answer) -> Json:
    return _present(
        {
            "system": answer.system,
            "text": answer.text,
            "option": answer.option,
            "correct": answer.correct,
            "status": answer.status,
            "reason": answer.reason,
            "scores": _numbers(answer.option_scores, 4),
            "shares": _numbers(answer.option_probabilities, 4),
            "kept": _numbers(answer.kept, 3),
            "tiles": answer.tiles,
            "curve": [_numbers(point, 4) for point in answer.curve if _drawable(point)],
            "curveName": answer.curve_name,
            "numScores": _left_out(answer),
            "windows": [_numbers(window, 4) for window in answer.windows],
            "value": _number(answer.value, 2),
        }
    )


def num_thinned(page: Page) -> int:
    """Answers whose curve is drawn from some of its scores only."""
    return sum(bool(_left_out(answer)) for item in page.shown for answer in item.answers)


def _left_out(answer: Answer) -> int | None:
    """How many scores there are, where the curve has fewer points."""
    drawn = len([point for point in answer.curve if _drawable(point)])
    return answer.num_scores if 0 < drawn < answer.num_scores else None


def _strip(item: Strip) -> Json:
    return _present(
        {
            "sprite": item.sprite,
            "tile": item.tile,
            "seconds": _numbers(item.seconds, 3),
            "start": _number(item.start, 3) or 0.0,
            "end": _number(item.end, 3) or 0.0,
            "problem": item.problem,
        }
    )


def _present(values: Json) -> Json:
    """Without what is empty, which would be most of the bytes."""
    return {name: value for name, value in values.items() if value not in (None, "", [], ())}


def _drawable(point: Iterable[float | None]) -> bool:
    return all(value is not None and math.isfinite(value) for value in point)


def _numbers(values: Iterable[float | None], digits: int) -> list[float | None]:
    return [_number(value, digits) for value in values]


def _number(value: float | None, digits: int) -> float | None:
    """Rounded; none for what JSON has no number for."""
    return round(float(value), digits) if value is not None and math.isfinite(value) else None
