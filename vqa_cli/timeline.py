"""Answers drawn in the terminal: option bars, and a time line with scores and keyframes.

Block characters where the output takes them, plain ASCII elsewhere; colour is the console's
affair (none in a pipe or with NO_COLOR). Never wider than eighty columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from stages.asking.answers import clock

if TYPE_CHECKING:
    from stages.asking.answers import Answered, SeenFrame

WIDEST, NARROWEST = 80, 40
BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", ".:-=+*#@"
BAR, ASCII_BAR = "█", "#"
RULE, ASCII_RULE = "─", "-"
MARK, ASCII_MARK = "●", "^"
GOOD = "bold green"
INDENT = 2


class Drawing:
    """Lines of text for one terminal.

    Args:
        width: Its columns.
        encoding: What its characters may be.
    """

    def __init__(self, width: int, encoding: str | None) -> None:
        self.width = max(NARROWEST, min(WIDEST, width))
        plain = not _takes_blocks(encoding)
        self.blocks = ASCII_BLOCKS if plain else BLOCKS
        self.bar, self.rule = (ASCII_BAR, ASCII_RULE) if plain else (BAR, RULE)
        self.mark = ASCII_MARK if plain else MARK

    def answer(self, answered: Answered, bounds: tuple[float, float]) -> list[Text]:
        """Question, options or text, time line, keyframes."""
        lines = [
            Text(line, style="bold") for line in self._wrapped(printable(answered.asked.question))
        ]
        if answered.problem:
            return [*lines, *map(Text, self._wrapped(f"not answered: {answered.problem}"))]
        if answered.asked.options:
            lines += self._options(answered)
        else:
            written = printable(answered.text) or "(nothing was written)"
            lines += [Text(line, style=GOOD) for line in self._wrapped(written, "> ")]
        return [*lines, *self._time_line(answered.frames, bounds), *self._kept(answered.kept)]

    def _options(self, answered: Answered) -> list[Text]:
        """`> red square   ██████████   71.3 %`, the best one marked."""
        shares = answered.probabilities
        room = self.width // 2 - INDENT
        names = [printable(text) for text in answered.asked.options]
        column = min(room, max(cell_len(name) for name in names))
        longest = self.width - INDENT - column - len("  100.0 %") - 1
        lines = []
        for number, (name, share) in enumerate(zip(names, shares, strict=True)):
            best = number == answered.choice
            bar = (self.bar * round(longest * share)).ljust(longest)
            text = f"{'> ' if best else '  '}{self._fitted(name, column)} {bar}{100 * share:7.1f} %"
            lines.append(Text(text, style=GOOD if best else ""))
        return lines

    def _time_line(self, frames: Sequence[SeenFrame], bounds: tuple[float, float]) -> list[Text]:
        """Scores, the line with the kept frames on it, and its ends' times."""
        columns = self.width - 2 * INDENT
        places = [_column(frame.time, bounds, columns) for frame in frames]
        lines = [Text()]
        scores = [frame.score for frame in frames if frame.score is not None]
        if len(scores) == len(frames) > 1 and min(scores) < max(scores):
            lines.append(Text(" " * INDENT + self._curve(places, scores, columns)))
        rule = Text(" " * INDENT + self.rule * columns, style="dim")
        for place, frame in zip(places, frames, strict=True):
            if frame.kept:
                rule = Text.assemble(
                    rule[: INDENT + place], (self.mark, GOOD), rule[INDENT + place + 1 :]
                )
        start, end = (clock(second) for second in bounds)
        ends = start + " " * (columns - len(start) - len(end)) + end
        return [*lines, rule, Text(" " * INDENT + ends, style="dim")]

    def _curve(self, places: Sequence[int], scores: Sequence[float], columns: int) -> str:
        """A block for every column, as high as the nearest frame's score."""
        low, high = min(scores), max(scores)
        best: dict[int, float] = {}
        for place, score in zip(places, scores, strict=True):
            best[place] = max(score, best.get(place, low))
        known = sorted(best)
        text = ""
        for column in range(columns):
            nearest = min(known, key=lambda place: abs(place - column))
            share = (best[nearest] - low) / (high - low)
            text += self.blocks[round(share * (len(self.blocks) - 1))]
        return text

    def _kept(self, kept: Sequence[SeenFrame]) -> list[Text]:
        """One line for each keyframe."""
        times = [clock(frame.time) for frame in kept]
        numbers = [f"frame {frame.frame}" for frame in kept]
        lines = []
        for time, number, frame in zip(times, numbers, kept, strict=True):
            text = (
                f"  {self.mark} {time:>{max(map(len, times))}}  {number:<{max(map(len, numbers))}}"
            )
            if frame.score is not None:
                text += f"  score {frame.score:.3f}"
            lines.append(Text(text))
        return lines

    def _fitted(self, text: str, cells: int) -> str:
        if cell_len(text) <= cells:
            return set_cell_size(text, cells)
        return set_cell_size(text, cells - 3) + "..."

    def _wrapped(self, text: str, first: str = "") -> list[str]:
        """Words in lines of the terminal's width; a word that is longer is cut."""
        lines, line = [], first
        for word in text.split():
            while cell_len(word) > self.width - INDENT:
                cut = len(word) * (self.width - INDENT) // cell_len(word)
                lines.append((line + word[:cut]) if not line.strip() else line.rstrip())
                word = word[cut:] if not line.strip() else word
                line = " " * len(first)
            if cell_len(line) + cell_len(word) > self.width:
                lines.append(line.rstrip())
                line = " " * len(first)
            line += word + " "
        return [*lines, line.rstrip()] if line.strip() else lines or [text]


def printable(text: str) -> str:
    """One line without what would move the cursor or change the terminal's state."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


def _column(seconds: float, bounds: tuple[float, float], columns: int) -> int:
    start, end = bounds
    share = (seconds - start) / max(end - start, 1e-6)
    return min(max(int(share * columns), 0), columns - 1)


def _takes_blocks(encoding: str | None) -> bool:
    try:
        (BLOCKS + BAR + RULE + MARK).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
