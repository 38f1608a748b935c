"""What the public scorers do otherwise than ours, said once: for the terminal, JSON and pages.

Reads and writes nothing. `specs/benchmarks.md` tells where each difference was found.
"""

from __future__ import annotations

from dataclasses import dataclass

from stages.benchmarks.manifest import BenchmarkManifest
from stages.benchmarks.scorers.retrieval import TIES, TieRule


@dataclass(frozen=True, slots=True)
class Rules:
    """How predictions are judged where there is a choice."""

    as_published: bool = False
    """The public scorer's behaviour where ours differs."""
    ties: TieRule = "expected"
    """What equal retrieval scores count as."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that the public scorer does in its own way."""

    ours: str
    published: str


RETRIEVAL_TIES = Difference(ours=TIES["expected"], published=TIES["every"])
INDICES = Difference(
    ours="answers are compared as words; a prediction of the unknown class is wrong",
    published="a prediction of index 0 is wrong, whatever word it stands for",
)

UNUSABLE = Difference(
    ours="a prediction that is out of range or of the wrong type is a counted failure",
    published="a prediction that is out of range or of the wrong type is a wrong answer",
)

DIFFERENCES: dict[str, tuple[Difference, ...]] = {
    "nextqa": (
        Difference(
            ours="the annotations say which answer is right",
            published="the prediction file's own `answer` says which answer is right",
        ),
        UNUSABLE,
    ),
    "star": (
        Difference(
            ours="`accuracy_macro` is the mean of the four types and absent if one is missing; "
            "`accuracy` counts questions alike",
            published="`agg_metrics` is the mean of the four types, and if one is missing the "
            "accuracy of all questions as a fraction of 1",
        ),
        UNUSABLE,
    ),
    "how2qa": (UNUSABLE,),
    "tvqa": (
        Difference(
            ours="predictions for questions that are not in the split are an error",
            published="predictions for questions that are not in the split are ignored",
        ),
        UNUSABLE,
    ),
    "vlep": (
        Difference(
            ours="the prediction is read from `pred_ans`, which the format prescribes, "
            "or from `pre_ans`",
            published="the prediction is read from `pre_ans` alone; a file with `pred_ans`, "
            "such as the published sample, is refused",
        ),
        UNUSABLE,
    ),
    "qvhighlights": (
        Difference(
            ours="a query without predicted windows is a miss in R1 and 0 in mAP",
            published="a query without predicted windows is left out of mAP, and there is no R1 "
            "because the public scorer stops",
        ),
    ),
    "msrvtt-qa": (INDICES, UNUSABLE),
    "msvd-qa": (INDICES, UNUSABLE),
    "agqa": (UNUSABLE,),
    "egotaskqa": (UNUSABLE,),
    "msrvtt-mc": (UNUSABLE,),
    "egomcq": (
        Difference(
            ours="`inter` is type 1, candidates from different videos, and `intra` is type 2",
            published="`inter` and `intra` carry each other's name, as in the code of EgoVLP "
            "and LaViLa",
        ),
    ),
    "msrvtt-retrieval": (RETRIEVAL_TIES,),
    "didemo": (RETRIEVAL_TIES,),
}
"""Benchmark to where its public scorer differs; one that is not here has none that is known."""


def rule_sentences(manifest: BenchmarkManifest, rules: Rules) -> list[str]:
    """The rules that were used, one sentence each; `[]` where there was no choice to make."""
    if manifest.scorer == "retrieval":
        return [f"ties ({rules.ties}): {TIES[rules.ties]}"]
    return [
        item.published if rules.as_published else item.ours
        for item in DIFFERENCES.get(manifest.name, ())
    ]
