"""VideoDistill as a system: its sampler as selector, its heads as answerer.

Reads the frame CLS of all N frames and the patches of the chosen ones alone, except with `soft`
sampling, which sums all frames. How an answer is read (`Reading`):

- `answer`: the answer head, over the vocabulary of the train split; of a question with options the
  best of them. No text but the question chooses frames.
- `matched`: each option with the question as one sentence, or each candidate clip with the
  question, by the matching head. Every candidate has frames of its own; the predictions show those
  of the one that won.
- `similarity`: the same by the cosine of v_cls* and t_cls.

Axes: B questions, R rows (candidates), N frames, K slots, P patches, A answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor

from stages.artifacts.store import Artifact
from stages.artifacts.weights import backbone_of, read_weights
from stages.benchmarks.captions import asked_text
from stages.benchmarks.manifest import BenchmarkManifest, load_manifest
from stages.benchmarks.questions import Question
from stages.benchmarks.vocabulary import AnswerVocabulary
from stages.core.errors import DataError, UsageError
from stages.models.backbones.catalog import backbone_fingerprint, backbone_path
from stages.models.backbones.folder import BackboneFolder
from stages.models.la_gate import EncodedText
from stages.models.sentences import Sentence, Sentences
from stages.models.videodistill import VideoDistill, VideoFeatures, load_weights
from stages.models.videodistill_config import VideoDistillConfig
from stages.models.videodistill_network import network_over
from stages.systems.face import Answers, Selection, Selector, System
from stages.systems.seen import ONE, Candidate, SeenFrames

Reading = Literal["answer", "matched", "similarity"]
VOCABULARY_FILE = "vocabulary.json"
"""In a weights artifact of open-ended questions: the answers that its head knows."""
READ_BY_TASK: Mapping[str, Reading] = {
    "open-ended": "answer",
    "choice": "matched",
    "matching": "matched",
    "captions": "matched",
    "contrastive": "similarity",
}
"""The head that a training leaves ready."""


class RowTexts:
    """What the text tower says of the rows at hand; sampler and answerer ask for the same ones."""

    def __init__(self, network: VideoDistill, sentences: Sentences, manifest: BenchmarkManifest):
        self.network, self.sentences, self.manifest = network, sentences, manifest
        self._of: SeenFrames | None = None
        self._encoded: EncodedText | None = None

    def of(self, seen: SeenFrames) -> EncodedText:
        """The sentence of each row, encoded."""
        if self._of is not seen or self._encoded is None:
            tokens = self.sentences.encode(
                [self._sentence(q, c) for q, c in zip(seen.questions, seen.candidates, strict=True)]
            )
            self._encoded = self.network.encode_text(tokens.to(self.network.device))
            self._of = seen
        return self._encoded

    def _sentence(self, question: Question, candidate: Candidate) -> Sentence:
        text = asked_text(question, self.manifest)
        return (text, candidate.text) if candidate.text else text or question.question


class SlotSampler:
    """The trained sampler: K slots per row, in the slots' order; a frame may fill several."""

    rule = "sampler"

    def __init__(self, network: VideoDistill, texts: RowTexts) -> None:
        self.network, self.texts = network, texts

    def problem(self, question: Question) -> str:
        """None; see `Selector`."""
        return ""

    @torch.no_grad()
    def select(self, seen: SeenFrames, keep: int) -> Selection:
        """See `Selector`; scores are the frames' probabilities, averaged over the slots."""
        rows, frames, device = len(seen), seen.num_frames, self.network.device
        noise = self.network.draw_noise(rows, frames)
        # The ablations choose by position: of the table they need the shape alone.
        scored = self.network.config.samples
        cls = seen.cls() if scored else torch.empty(rows, frames, 0, device=device)
        slots = self.network.select(cls, self.texts.of(seen), noise=noise)
        return Selection(slots.indices.cpu(), slots.frame_scores)


class VideoDistillAnswerer:
    """The refinement and one of the heads.

    Args:
        network: In eval mode.
        texts: Shared with the sampler.
        reading: How answers are read.
        vocabulary: For `answer`.
        rows: Rows per forward pass of the refinement.
        whole: Sum all frames by weight, as `soft` sampling does, instead of reading the chosen.
        precision: Arithmetic of the forward pass.
    """

    def __init__(
        self,
        network: VideoDistill,
        texts: RowTexts,
        reading: Reading,
        vocabulary: AnswerVocabulary | None,
        *,
        rows: int,
        whole: bool = False,
        precision: str = "float32",
    ) -> None:
        self.network, self.texts, self.reading = network, texts, reading
        self.vocabulary, self.rows, self.whole = vocabulary, rows, whole
        self.precision = precision

    def problem(self, question: Question) -> str:
        """See `Answerer`."""
        if not question.question.strip() and not question.options:
            return "there is no text"
        if self.reading == "answer":
            several = len(question.videos) > 1
            return "these weights answer questions about one video" if several else ""
        if question.open_ended:
            return "no options or videos to match: it needs weights trained on open-ended questions"
        return ""

    def candidates(self, question: Question) -> Sequence[Candidate]:
        """See `CandidateAnswerer`: one row to classify, one per option or clip to match."""
        if self.reading == "answer":
            return ONE
        if len(question.videos) > 1:
            return [Candidate(place) for place in range(len(question.videos))]
        return [Candidate(text=option.strip()) for option in question.options]

    @torch.no_grad()
    def answer(self, seen: SeenFrames, indices: Tensor) -> Answers:
        """See `Answerer`."""
        text = self.texts.of(seen)
        parts = [
            self._read(seen, text, indices, torch.arange(low, min(low + self.rows, len(seen))))
            for low in range(0, len(seen), self.rows)
        ]
        values = torch.cat(parts).float().cpu()
        if self.reading == "answer":
            return self._from_vocabulary(seen.questions, values)
        return self._from_candidates(seen.questions, values.tolist())

    def _read(self, seen: SeenFrames, text: EncodedText, indices: Tensor, rows: Tensor) -> Tensor:
        """Logits [r, A] or scores [r] of `rows`."""
        network, part = self.network, seen.part(rows.tolist())
        given = text.rows(rows.to(network.device))
        with autocast(network.device, self.precision):
            if self.whole:
                v_cls = network.see(VideoFeatures(part.cls(), part.features()), given).v_cls
            else:
                v_cls = network.refine(part.kept(indices[rows]), given)
            return read_scores(network, v_cls, given, self.reading)

    def _from_vocabulary(self, questions: Sequence[Question], logits: Tensor) -> Answers:
        """The best word of the vocabulary, or of a question's options; scores for options only."""
        assert self.vocabulary is not None
        scores: list[list[float]] = []
        predictions: list[int | str] = []
        for question, row in zip(questions, logits.tolist(), strict=True):
            if question.open_ended:
                scores.append([])
                predictions.append(self.vocabulary.answers[row.index(max(row))])
                continue
            # An option that never was an answer in training scores below every one that was.
            places = [self.vocabulary.place(option) for option in question.options]
            scores.append([min(row) - 1.0 if place is None else row[place] for place in places])
            predictions.append(scores[-1].index(max(scores[-1])))
        return Answers(scores, predictions)

    def _from_candidates(self, questions: Sequence[Question], values: list[float]) -> Answers:
        """The candidate that scores highest, the first one on a tie."""
        scores, predictions, rows = [], [], []
        row = 0
        while row < len(questions):
            count = len(self.candidates(questions[row]))
            scores.append(values[row : row + count])
            predictions.append(scores[-1].index(max(scores[-1])))
            rows.append(row + predictions[-1])
            row += count
        return Answers(scores, list(predictions), rows=rows)


def read_scores(
    network: VideoDistill, v_cls: Tensor, text: EncodedText, reading: Reading
) -> Tensor:
    """What a head says of each row: logits [r, A], or how well it matches [r]."""
    if reading == "answer":
        return network.answer_logits(v_cls)
    return network.match_scores(v_cls) if reading == "matched" else network.similarity(v_cls, text)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """The arithmetic that the weights were trained in."""
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def videodistill_system(
    network: VideoDistill,
    sentences: Sentences,
    manifest: BenchmarkManifest,
    reading: Reading,
    vocabulary: AnswerVocabulary | None,
    *,
    rows: int,
    selector: Selector | None = None,
    precision: str = "float32",
) -> System:
    """A network in memory as a system, with its own sampler or another selector of K frames."""
    texts = RowTexts(network, sentences, manifest)
    whole = selector is None and network.reads_all_frames
    answerer = VideoDistillAnswerer(
        network, texts, reading, vocabulary, rows=rows, whole=whole, precision=precision
    )
    chosen = selector or SlotSampler(network, texts)
    config = network.config
    return System("videodistill", chosen, answerer, config.frames, config.keep, network.device)


# --- weights -------------------------------------------------------------------------------------


def reading_of(weights: Artifact, asked: str | None = None) -> Reading:
    """How answers are read from weights: as they were trained for, or as the user says.

    Raises:
        UsageError: The head was not trained.
    """
    task = weights.config["task"]
    trained: dict[str, Reading] = {READ_BY_TASK[task]: READ_BY_TASK[task]}
    if task == "captions":
        trained["similarity"] = "similarity"
    if asked and asked not in trained:
        raise UsageError(
            f"{weights.id} was trained on {task}, it cannot be read by {asked}",
            f"--set read={' or '.join(sorted(trained))}",
        )
    return trained[asked or READ_BY_TASK[task]]


def read_vocabulary(weights: Artifact) -> AnswerVocabulary | None:
    """The answers that the head of open-ended weights knows; None for other weights.

    Raises:
        DataError: The file is damaged, or does not fit the head.
    """
    if weights.config["task"] != "open-ended":
        return None
    path = weights.path / VOCABULARY_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error})", "vqa artifacts verify") from None
    vocabulary = AnswerVocabulary.from_json(values, str(path))
    if len(vocabulary) != weights.config["model"]["answers"]:
        raise DataError(f"{path} holds {len(vocabulary)} answers, the head has another number")
    return vocabulary


def load_network(
    weights: Artifact,
    device: torch.device,
    *,
    backbone: str | None = None,
    overrides: dict[str, Any] | None = None,
) -> VideoDistill:
    """The trained network, in eval mode.

    Args:
        weights: Of any role.
        device: Where to put it.
        backbone: Folder of the backbone, if it is not where it was.
        overrides: Options that evaluation may change (`eval_noise`, `match_score`).

    Raises:
        DataError: The backbone is not the one that the weights were trained on.
    """
    folder = BackboneFolder(backbone_path(backbone or backbone_of(weights)))
    if backbone_fingerprint(folder) != weights.config["backbone_weights"]:
        raise DataError(
            f"backbone {folder.path} is not the one that {weights.id} was trained on",
            "give the right folder with --backbone",
        )
    config = VideoDistillConfig.build(weights.config["model"] | (overrides or {}), weights.id)
    state = read_weights(weights)
    with_captions = any(name.startswith("mlm.") for name in state)
    network = network_over(folder, config, device, with_captions=with_captions)
    load_weights(network, state)
    return network.eval()


def load_videodistill(
    weights: Artifact,
    device: torch.device,
    *,
    backbone: str | None = None,
    overrides: dict[str, Any] | None = None,
    benchmark: str | None = None,
    reading: str | None = None,
    selector: Selector | None = None,
    rows: int = 16,
) -> System:
    """A weights artifact as a system; see `load_network` and `videodistill_system`.

    `benchmark` is whose questions are asked; None: the one that the weights were trained on.
    """
    made = weights.config
    network = load_network(weights, device, backbone=backbone, overrides=overrides)
    folder = BackboneFolder(backbone_path(backbone or backbone_of(weights)))
    return videodistill_system(
        network,
        Sentences.load(folder),
        load_manifest(benchmark or made["benchmark"]),
        reading_of(weights, reading),
        read_vocabulary(weights),
        rows=rows,
        selector=selector,
        precision=made["training"]["precision"],
    )
