"""An annotation file read once: its questions go to a table on disk, only counts stay in memory.

Reads one `QuestionStream`; writes batches of rows to whoever takes them. What stays is what
coverage needs: the distinct video names, how many questions ask about each, and the bad rows.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa

from stages.benchmarks.questions import Question
from stages.benchmarks.readers import BadRow, QuestionStream
from stages.benchmarks.records import question_schema, to_batch
from stages.core.errors import DataError

ROWS_PER_BATCH = 8192
"""Questions in memory at once; no byte of the table depends on it."""

MAX_BAD_ROWS = 0.2
"""Share of unreadable rows above which a file is taken not to be the official one. A file of the
user's own is what it is: its bad rows cost themselves, however many there are."""

SHOWN = 5
"""Bad rows that a message quotes."""

TakeBatch = Callable[[pa.RecordBatch], None]
TellRows = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known of an annotation file once its last row has been read.

    Attributes:
        num_questions: Good rows.
        bad_rows: Rows that gave no question.
        asked: Candidate videos of a question (one, or five in EgoMCQ) -> number of questions, in
            order of first mention.
        seconds: Time taken, writing the rows included.
    """

    num_questions: int
    bad_rows: list[BadRow]
    asked: Counter[tuple[str, ...]]
    seconds: float
    videos: list[str] = field(init=False)
    """Distinct videos in order of first mention."""

    def __post_init__(self) -> None:
        names = dict.fromkeys(video for videos in self.asked for video in videos)
        object.__setattr__(self, "videos", list(names))

    @property
    def num_rows(self) -> int:
        """Records in the file, good and bad."""
        return self.num_questions + len(self.bad_rows)

    @property
    def rows_per_second(self) -> float:
        """How fast it went."""
        return self.num_rows / self.seconds if self.seconds else 0.0

    def unread(self) -> str:
        """How many rows gave no question, and why the first ones did not, a line each."""
        return f"{self.share()} cannot be read{self.reasons()}"

    def share(self) -> str:
        """`3 of 4,996 rows`, of which the first are the bad ones."""
        return f"{len(self.bad_rows):,} of {self.num_rows:,} rows"

    def reasons(self) -> str:
        """Why the first bad rows gave no question: a colon, then one indented line a row."""
        lines = [f"\n  {row.in_file()}" for row in self.bad_rows[:SHOWN]]
        more = len(self.bad_rows) - len(lines)
        return ":" + "".join(lines) + (f"\n  and {more:,} more" if more else "")

    def rate(self) -> dict[str, float]:
        """For the JSON."""
        return {
            "rows": self.num_rows,
            "seconds": round(self.seconds, 3),
            "rows_per_second": round(self.rows_per_second, 1),
        }


def read_into(
    stream: QuestionStream,
    take: TakeBatch | None,
    *,
    strict: bool = False,
    tell: TellRows | None = None,
    batch_size: int = ROWS_PER_BATCH,
) -> Reading:
    """Read `stream` to its end, handing on its questions in batches, in order.

    Args:
        stream: The annotation file.
        take: Given each batch under `question_schema`; none: the rows are only counted.
        strict: Stop at the first bad row.
        tell: Told the number of rows after each batch.
        batch_size: Rows of a batch.

    Raises:
        DataError: A bad row with `strict`; no readable row; of an official file too many bad ones.
    """
    began = time.monotonic()
    batch: list[Question] = []
    bad_rows: list[BadRow] = []
    asked: Counter[tuple[str, ...]] = Counter()
    num_questions = 0

    def hand_on() -> None:
        nonlocal num_questions
        num_questions += len(batch)
        if take is not None and batch:
            take(to_batch(batch, question_schema(bool(stream.open_ended))))
        batch.clear()
        if tell is not None:
            tell(num_questions + len(bad_rows))

    for item in stream:
        if isinstance(item, BadRow):
            if strict:
                raise DataError(str(item), "run without --strict to go on past it")
            bad_rows.append(item)
            continue
        asked[item.videos] += 1
        batch.append(item)
        if len(batch) == batch_size:
            hand_on()
    hand_on()
    reading = Reading(num_questions, bad_rows, asked, time.monotonic() - began)
    _check_bad_rows(stream, reading)
    return reading


def _check_bad_rows(stream: QuestionStream, reading: Reading) -> None:
    bad, total = len(reading.bad_rows), reading.num_rows
    own = stream.manifest.own_files
    if total == 0:
        raise DataError(f"{stream.path} holds no question")
    if bad == total or (bad > MAX_BAD_ROWS * total and not own):
        name, layout = stream.manifest.name, stream.layout
        what = f"{reading.share()} do not fit the layout {layout}{reading.reasons()}"
        hint = (
            "mend the rows; what each field may hold: vqa benchmarks custom"
            if own
            else f"{stream.path.name} was taken for {layout} of {name} by its first rows: give "
            f"the annotation file of {name} {stream.split} as published (vqa benchmarks {name})"
        )
        raise DataError(f"{stream.path}: {what}", hint)
