"""Retrieval with VideoDistill: how well every text goes with every video.

v_cls* depends on the text, so each pair is a forward pass of its own (specs/videodistill.md 6).
What does not depend on both is done once: texts are encoded once for all videos, and of a video
the frames that any of the texts chooses are read once.

Axes: T texts, V videos, N frames, K slots, P patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from stages.artifacts.clips import ClipKey, ClipRows
from stages.artifacts.rows import Array
from stages.benchmarks.batches import QuestionFeatures, clip_key
from stages.benchmarks.questions import Question
from stages.benchmarks.scorers.retrieval import Floats, found_within, places_of_texts
from stages.core.errors import DataError
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.towers import tower_spec
from stages.models.la_gate import EncodedText
from stages.models.sentences import Sentences
from stages.models.videodistill import VideoDistill, VideoFeatures
from stages.models.videodistill_config import VideoDistillConfig
from stages.models.videodistill_cost import pair_cost
from stages.systems.seen import FeatureRows
from stages.systems.tuning import Processes
from stages.systems.videodistill import Reading, autocast, read_scores

TYPICAL_WORDS = 16
"""Words of a caption, for estimates; only the ablations' costs depend on it."""
Tell = Callable[[int], None]
"""Told how many pairs are done."""


class PairScorer:
    """Scores texts against videos in blocks.

    Args:
        network: In eval mode.
        sentences: Its tokenizer.
        reading: `matched` or `similarity`.
        pairs: Pairs per forward pass.
        precision: Arithmetic of the forward pass.
    """

    def __init__(
        self,
        network: VideoDistill,
        sentences: Sentences,
        reading: Reading,
        pairs: int,
        precision: str = "float32",
    ) -> None:
        self.network, self.sentences, self.reading = network, sentences, reading
        self.pairs, self.precision = pairs, precision

    @torch.no_grad()
    def scores(
        self,
        texts: Sequence[str],
        clips: Sequence[ClipRows],
        reader: FeatureRows,
        tell: Tell = lambda pairs: None,
    ) -> Floats:
        """[T, V], more is more alike."""
        blocks = [
            self.network.encode_text(self.sentences.encode(part).to(self.network.device))
            for part in _parts(texts, self.pairs)
        ]
        columns = []
        for clip in clips:
            columns.append(np.concatenate([self._block(text, clip, reader) for text in blocks]))
            tell(len(texts))
        return np.stack(columns, axis=1).astype(np.float64)

    def _block(self, text: EncodedText, clip: ClipRows, reader: FeatureRows) -> Array:
        """Scores [t] of some texts with one video."""
        network, device = self.network, self.network.device
        video = torch.zeros(len(text), dtype=torch.long, device=device)
        cls = torch.from_numpy(reader.read_cls(clip.rows))[None].to(device).float()
        noise = network.draw_noise(len(text), cls.shape[1])
        with autocast(device, self.precision):
            if network.reads_all_frames:
                whole = VideoFeatures(cls, _patches(reader, clip.rows, device)[None])
                v_cls = network.see(whole, text, videos=video, noise=noise).v_cls
            else:
                slots = network.select(cls, text, videos=video, noise=noise)
                chosen = slots.indices.cpu().numpy()
                # Texts choose many of the same frames: each is read once.
                once, places = np.unique(chosen, return_inverse=True)
                kept = _patches(reader, clip.rows[once], device)
                index = torch.from_numpy(places.reshape(chosen.shape)).to(device)
                v_cls = network.refine(kept[index], text)
            scores: Array = read_scores(network, v_cls, text, self.reading).float().cpu().numpy()
        return scores


def _patches(reader: FeatureRows, rows: Array, device: torch.device) -> Tensor:
    """[len(rows), P, C], float32."""
    return torch.from_numpy(reader.read(rows)).to(device).float()


def _parts(texts: Sequence[str], size: int) -> list[Sequence[str]]:
    return [texts[low : low + size] for low in range(0, len(texts), size)]


class Candidates:
    """The distinct clips of a split that have features, in order of first mention.

    Attributes:
        keys: What each column is.
        clips: Its N frames.
    """

    def __init__(self, data: QuestionFeatures) -> None:
        first: dict[ClipKey, int] = {}
        for index in data.usable():
            first.setdefault(clip_key(data.questions[index]), index)
        self.keys = list(first)
        self.clips = [data.clip(index) for index in first.values()]
        self._columns = {key: column for column, key in enumerate(self.keys)}

    def __len__(self) -> int:
        return len(self.keys)

    def column(self, question: Question) -> int | None:
        """The column of a text's own clip; none if it has no features."""
        return self._columns.get(clip_key(question))


def text_problem(data: QuestionFeatures, index: int) -> str:
    """Why question `index` cannot be ranked, or an empty string."""
    return data.problem(index) or (
        "" if data.questions[index].question.strip() else "there is no text"
    )


def pair_flops(folder: BackboneFolder, config: VideoDistillConfig) -> int:
    """Floating-point operations of one pair, without CLIP's towers."""
    spec = tower_spec(folder)
    cost = pair_cost(
        config,
        patches=spec.tokens,
        patch_width=spec.width,
        cls_width=spec.cls_width,
        words=TYPICAL_WORDS,
    )
    return cost.total


class TuneRecall:
    """R@1 of text to video, in percent, among the first texts of the tune split.

    All pairs would cost a benchmark's evaluation after every epoch. Of several texts of one clip
    the first one is taken.

    Args:
        data: The tune split.
        limit: Texts, and as many clips.
        sentences: The text tower's tokenizer.
        reading: `matched` or `similarity`.
        pairs: Pairs per forward pass.
        processes: Who shares the work.

    Raises:
        DataError: No text of the split can be ranked.
    """

    def __init__(
        self,
        data: QuestionFeatures,
        limit: int,
        sentences: Sentences,
        reading: Reading,
        pairs: int,
        processes: Processes,
    ) -> None:
        self.data, self.sentences, self.reading = data, sentences, reading
        self.pairs, self.processes = pairs, processes
        first: dict[ClipKey, int] = {}
        for index in range(len(data.questions)):
            if not text_problem(data, index):
                first.setdefault(clip_key(data.questions[index]), index)
        self.indices = list(first.values())[:limit]
        if not self.indices:
            raise DataError("no text of the tune split has a video with features")

    def __call__(self, model: nn.Module) -> float:
        """R@1 of `model`; ties count as chance would have them."""
        network = getattr(model, "module", model)
        assert isinstance(network, VideoDistill)
        scorer = PairScorer(network, self.sentences, self.reading, self.pairs)
        rank, count = self.processes.process_index, self.processes.num_processes
        own = list(range(len(self.indices)))[rank::count]
        found = 0.0
        if own:
            texts = [self.data.questions[self.indices[place]].question.strip() for place in own]
            clips = [self.data.clip(index) for index in self.indices]
            scores = scorer.scores(texts, clips, self.data.reader)
            places = places_of_texts(scores, np.array(own, np.int64))
            found = float(found_within(places, 1, "expected").sum())
        shared = torch.tensor([found, float(len(own))], device=self.processes.device)
        total = self.processes.reduce(shared, "sum")
        return 100.0 * total[0].item() / total[1].item()
