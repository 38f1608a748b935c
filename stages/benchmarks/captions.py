"""The sentences that VideoDistill's text tower reads: questions, options, captions.

Reads and writes nothing. Chosen here, where arXiv 2404.00973 is silent (specs/videodistill.md 6):
texts go in as the annotations have them, without a prompt around them; where a benchmark asks
nothing of its own (MSRVTT-MC), an option is the whole sentence. Pre-training takes any questions:
those without answers are captions, those with one make a caption of question and answer.
"""

from __future__ import annotations

from stages.benchmarks.manifest import BenchmarkManifest
from stages.benchmarks.questions import Question


def asked_text(question: Question, manifest: BenchmarkManifest) -> str:
    """What is asked; empty where every question of the benchmark has the same words."""
    text = question.question.strip()
    return "" if manifest.default_question and text == manifest.default_question else text


def caption_of(question: Question) -> str:
    """What describes the video; empty where there is neither a text nor an answer."""
    parts = (question.question.strip(), (question.target_text or "").strip())
    return " ".join(part for part in parts if part)
