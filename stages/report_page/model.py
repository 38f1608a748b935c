"""What a report page says, as plain values: gathered by `stages.reporting`, drawn by `render`.

Accuracies are in percent, times in seconds from the start of the video, unless a name says
otherwise. Nothing here knows artifacts, so a page can be drawn from values made by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Point = tuple[float, float]


@dataclass(frozen=True)
class System:
    """One evaluation: a row of the table, a mark in the plots.

    Attributes:
        name: Short, unique within the page.
        artifact: Id of its predictions.
        family: `vlap`, `sevila`, `videodistill`, ...; the best of each are compared first.
        select: Who chose the frames.
        headline: Name of the figure that `value` is (`accuracy`, `mAP`, `R@1`, ...).
        value: In percent; none: nothing was scored.
        ci95: Of `value`, from a bootstrap over videos.
        by_type: Accuracy of each question type.
        metrics: Every other figure of the evaluation by its official name.
        frames: Frames seen.
        keep: Frames kept.
        ms_per_video: Model time for one question from stored features.
        seed: That its weights were trained with; none: it has no weights of ours.
        blind: What was shown in place of the videos; none: the videos.
    """

    name: str
    artifact: str
    family: str
    select: str
    headline: str
    value: float | None
    ci95: tuple[float, float] | None
    by_type: dict[str, float]
    metrics: dict[str, float]
    frames: int | None
    keep: int | None
    ms_per_video: float | None
    seed: int | None
    blind: str | None
    n_scored: int
    n_failed: int
    n_unlabelled: int


@dataclass(frozen=True)
class Published:
    """One published row of the same benchmark and split.

    Attributes:
        name: System and setting as the paper names them.
        source: Paper and table.
        metrics: The official names of our own metrics where the figure is the same one.
    """

    name: str
    source: str
    frames: int | None
    keep: int | None
    metrics: dict[str, float]


@dataclass(frozen=True)
class Drop:
    """What one system loses without the videos, with the interval of the paired difference."""

    system: str
    how: str
    seeing: float
    blind: float
    drop: float
    ci95: tuple[float, float] | None
    by_type: dict[str, tuple[float, tuple[float, float] | None]]


@dataclass(frozen=True)
class Strip:
    """Thumbnails of one clip in one picture, side by side.

    Attributes:
        sprite: Data URI of all tiles in one row; none: the video could not be read.
        tile: Width and height of one tile in pixels.
        seconds: When each tile was shown, ascending.
        start: First second of the clip that was asked about.
        end: Its last second.
        problem: Why there is no picture.
    """

    sprite: str | None
    tile: tuple[int, int]
    seconds: tuple[float, ...]
    start: float
    end: float
    problem: str = ""


@dataclass(frozen=True)
class Answer:
    """One system's answer to one shown question.

    Attributes:
        system: Place in `Page.systems`.
        text: The answer as words.
        option: Place of the answer among the options, where there are any.
        correct: None when unlabelled, failed, or not a matter of right and wrong.
        status: `ok`, `failed`, `unlabelled`.
        reason: Of a failure.
        option_scores: One per option, as the system scored them (higher is better).
        option_probabilities: Softmax of these, where the scores are log-likelihoods or logits.
        kept: Seconds of the frames that were kept, in the system's order.
        tiles: For each kept frame its place in the strip; -1: it has none there. Empty: not told.
        curve: (seconds, score) of the frames that a selector scored.
        curve_name: Which score that is (`localizer`, `prompter`, `sampler`).
        windows: (start, end, score) of moment retrieval, best first.
        value: The question's own share of the headline figure in percent, where there is one.
        num_scores: Of frames; more than points of `curve` where it was thinned.
    """

    system: int
    text: str
    option: int | None
    correct: bool | None
    status: str
    reason: str
    option_scores: tuple[float, ...]
    option_probabilities: tuple[float, ...]
    kept: tuple[float, ...]
    tiles: tuple[int, ...]
    curve: tuple[Point, ...]
    curve_name: str
    windows: tuple[tuple[float, float, float], ...] = ()
    value: float | None = None
    num_scores: int = 0


@dataclass(frozen=True)
class Shown:
    """One question with every system's answer.

    Attributes:
        key: Unique and stable: deep links open at `#q=KEY`.
        strip: Place in `Page.strips`.
        truth: Place of the right option; none: unlabelled or no options.
        truth_text: The right answer as words; empty: unlabelled.
        spans: True spans in seconds.
    """

    key: str
    question_id: str
    video: str
    type: str
    text: str
    options: tuple[str, ...]
    truth: int | None
    truth_text: str
    spans: tuple[Point, ...]
    strip: int
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Flips:
    """Two systems on all questions of the split, not only on the shown ones."""

    first: int
    second: int
    both_right: int
    only_first: int
    only_second: int
    both_wrong: int


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        name: Label of its weights.
        artifact: Their id.
        curves: By name (`loss`, `accuracy on the tune split`, `temperature`, `gradient norm`,
            `learning rate`), (step, value); at most a few hundred points each.
    """

    name: str
    artifact: str
    role: str
    seconds: float | None
    curves: dict[str, tuple[Point, ...]]


@dataclass(frozen=True)
class Histogram:
    """Where in the clips one system's kept frames lie: shares of equal bins from start to end."""

    system: str
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Failure:
    """What could not be made for one reason: where (ids of artifacts), which, why."""

    where: tuple[str, ...]
    key: str
    reason: str


@dataclass(frozen=True)
class Node:
    """One artifact of the lineage graph.

    Attributes:
        rank: Longest way from a source; columns of the graph.
        inputs: Ids of the artifacts that it was made from.
        command: What to type to make it again; empty where it cannot be told.
    """

    id: str
    kind: str
    label: str
    rank: int
    inputs: tuple[str, ...]
    bytes: int
    created: str
    command: str


@dataclass(frozen=True)
class Page:
    """Everything that a report shows."""

    title: str
    benchmark: str
    split: str
    num_questions: int
    coverage: dict[str, int]
    """Videos by status: `ok`, `missing`, `undecodable`, ..."""
    types: tuple[str, ...]
    systems: tuple[System, ...]
    published: tuple[Published, ...] = ()
    reported: str = ""
    """Figure that papers print of the benchmark; empty: the one that the systems are ranked by."""
    drops: tuple[Drop, ...] = ()
    strips: tuple[Strip, ...] = ()
    shown: tuple[Shown, ...] = ()
    flips: tuple[Flips, ...] = ()
    runs: tuple[Run, ...] = ()
    histograms: tuple[Histogram, ...] = ()
    failures: tuple[Failure, ...] = ()
    num_failures: int = 0
    """All of them; `failures` are the first ones."""
    num_failed: int = 0
    """Questions that a system failed on."""
    environment: dict[str, str] = field(default_factory=dict)
    lineage: tuple[Node, ...] = ()
