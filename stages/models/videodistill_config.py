"""What decides a VideoDistill network (arXiv 2404.00973) and its losses, and the paper's variants.

The paper has no public code. What it leaves open is decided here; each decision is an option with
its default, explained at the field. In short (specs/videodistill.md, section in brackets):

| open in the paper | here | option |
|---|---|---|
| CLIP's widths (768, 512) against one D [1] | LayerNorm + Linear to D each | `input_norm` |
| norm before the gate's projections [2] | LayerNorm | `gate_norm` |
| MLP of the blocks [3] | ratio 4, GELU | `mlp_ratio`, `activation` |
| temperature [3] | 1.0, constant | `tau`, `tau_end` |
| noise in training, in evaluation [3] | Gumbel, none | `train_noise`, `eval_noise` |
| order of the slots [3] | as produced | `sort_slots` |
| start of the space-time layer's skip [4] | the gated tokens | `refine_skip` |
| norm of v_cls* before the heads [4] | LayerNorm | `final_norm` |
| width of the contrastive comparison [5] | D, t_cls projected | `contrastive_width` |
| captions that are its negatives [5] | all of the batch | `contrastive_negatives` |
| mask token of CLIP's text tower [5] | a new embedding | `mask_token`, `mlm_stopgrad` |
| loss of multiple choice [6] | softmax over matched logits | `choice_loss`, `match_score` |
| dropout | none | `dropout` |

Decided with the features, not here: centre crop in evaluation; frame CLS = `pooler_output`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from stages.core.config import Config
from stages.models.attention import Activation, GateKind
from stages.models.matching import ChoiceLoss, MatchScore, Negatives
from stages.models.vision_refinement import Skip

SamplerName = Literal["hard", "soft", "uniform", "none"]


class VideoDistillConfig(Config):
    """What decides a VideoDistill network and its losses; frame counts have no defaults."""

    frames: int = Field(ge=1)
    """N, frames that a video is sampled to; 100 in the paper."""
    keep: int = Field(ge=1)
    """K, slots for chosen frames; 16 in the paper."""
    max_frames: int | None = Field(default=None, ge=1)
    """Rows of the sampler's temporal table. None: `frames`."""
    layers: int = Field(default=3, ge=1)
    """L, blocks of the sampler and of the refinement (or fusion)."""
    width: int = Field(default=1024, ge=1)
    """D."""
    heads: int = Field(default=8, ge=1)
    """H, of all gates and attention layers."""
    sampler: SamplerName = "hard"
    """`hard` is the paper's; `soft` sums all frames by weight, in evaluation too (Table 4 c);
    `uniform` takes the middle frames of K segments (Table 4 a, b); `none` keeps all N = K."""
    fusion: GateKind = "gate"
    """How language reaches vision: LA-Gate or cross-attention (Table 4 e)."""
    refinement: bool = True
    """False: a transformer over patches and words in its place (Table 4 a, d)."""
    answers: int | None = Field(default=None, ge=2)
    """Size of the answer vocabulary of open-ended questions. None: no answer head."""
    tau: float = Field(default=1.0, gt=0)
    """Temperature of the Gumbel-softmax; of `hard` slots it shapes the gradient only."""
    tau_end: float | None = Field(default=None, gt=0)
    """Temperature at the end of training, reached geometrically. None: constant."""
    train_noise: bool = True
    """Draw Gumbel noise in training."""
    eval_noise: bool = False
    """Draw Gumbel noise in evaluation too."""
    sort_slots: bool = False
    """Order the slots by time before refinement."""
    input_norm: bool = True
    """LayerNorm before the three input projections."""
    gate_norm: bool = True
    """LayerNorm on the visual tokens inside the gate."""
    mlp_ratio: int = Field(default=4, ge=1)
    """Inner width of the blocks' MLPs, in units of D."""
    activation: Activation = "gelu"
    """Of the blocks' MLPs."""
    refine_skip: Skip = "gate"
    """Where the skips of space-time attention start: at the gated tokens or the block's input."""
    final_norm: bool = True
    """LayerNorm on v_cls* before the heads."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """After the gate's and attention's output layers and in the MLPs and the answer head."""
    match_score: MatchScore = "logit"
    """Candidates are ranked by the matched logit, or by its lead over the unmatched one."""
    choice_loss: ChoiceLoss = "cross_entropy"
    """Multiple choice trains over the candidates' scores, or each candidate as matched or not."""
    contrastive_width: int | None = Field(default=None, ge=1)
    """Width of two more projections before the cosine of v_cls* and t_cls. None: none."""
    contrastive_temperature: float = Field(default=0.07, gt=0)
    """Of the contrastive softmax."""
    contrastive_negatives: Negatives = "batch"
    """Whether exchanged captions are negatives in pre-training, as Eq. 8 sums over the batch."""
    mask_token: Literal["learned", "end"] = "learned"
    """What stands for a masked word: an embedding of its own or the end token's."""
    mlm_stopgrad: bool = True
    """The masked caption's words pass no gradient on (the paper). The mask embedding then keeps
    its initial value."""
    vtm_weight: float = Field(default=1.0, ge=0)
    """Weight of matching in pre-training; 0 leaves it out (Table 15)."""
    contrastive_weight: float = Field(default=1.0, ge=0)
    """Weight of the contrastive constraint in pre-training."""
    mlm_weight: float = Field(default=1.0, ge=0)
    """Weight of vision-guided masked language modelling in pre-training."""

    @model_validator(mode="after")
    def _fits_together(self) -> VideoDistillConfig:
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}")
        if self.sampler == "none" and self.keep != self.frames:
            raise ValueError("sampler `none` keeps all frames: keep must equal frames")
        if self.sampler == "uniform" and self.keep > self.frames:
            raise ValueError("sampler `uniform` cannot keep more frames than there are")
        if self.positions < self.frames:
            raise ValueError("max_frames is less than frames")
        if self.fusion == "cross_attention" and not (self.refinement or self.samples):
            raise ValueError("without sampler and refinement there is nothing to put fusion into")
        if not (self.vtm_weight or self.contrastive_weight or self.mlm_weight):
            raise ValueError("all pre-training losses are off")
        return self

    @property
    def samples(self) -> bool:
        """Whether a learned sampler chooses the frames."""
        return self.sampler in ("hard", "soft")

    @property
    def positions(self) -> int:
        """`max_frames` with its default filled in."""
        return self.frames if self.max_frames is None else self.max_frames

    def tau_at(self, progress: float) -> float:
        """Temperature at `progress` (0 to 1) of training; 1 is what evaluation uses."""
        end = self.tau if self.tau_end is None else self.tau_end
        return self.tau * (end / self.tau) ** min(max(progress, 0.0), 1.0)


PAPER: Mapping[str, Any] = {"frames": 100, "keep": 16, "layers": 3, "width": 1024, "heads": 8}
"""Sizes of the paper's experiments (appendix B.1)."""

TABLE_4: Mapping[str, Mapping[str, Any]] = {
    "a": {"sampler": "uniform", "refinement": False},  # baseline
    "b": {"sampler": "uniform"},  # uniform sampling
    "c": {"sampler": "soft"},  # soft sampling
    "d": {"refinement": False},  # without vision refinement
    "e": {"fusion": "cross_attention"},
    "f": {},  # VideoDistill
}
"""What the rows of Table 4 change; K stays."""
