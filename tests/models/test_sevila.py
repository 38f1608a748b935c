"""SeViLA: frame scores, answers in both modes, pseudo-labels, losses, what trains, weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stages.core.errors import ConfigError, DataError
from stages.models.backbones.blip2 import Blip2
from stages.models.backbones.folder import BackboneFolder
from stages.models.parameters import parameter_counts
from stages.models.selectors import first_argmax
from stages.models.sevila import FrameScores, Sevila, SevilaConfig, load_sides, side_state
from stages.models.sevila_rows import LENGTH_BUCKET, Rows, length_buckets

Features = Callable[..., Tensor]
LISTED = [
    "Question: what color is the circle? Option A: red Option B: blue",
    "Question: which is left? Option A: circle Option B: square Option C: the red circle",
    "Question: what? Option A: left Option B: right Option C: red Option D: blue Option E: green",
]
OPTIONS = [2, 3, 5]
ASKED = ["what color", "Question: which is left? Does the red circle", "red " * 40]
TEXTS = [["red", "blue circle"], ["left", "right", "the green square"], ["a", "b", "c", "d", "e"]]


@pytest.fixture
def model(tiny_blip2: Blip2) -> Sevila:
    """In eval mode, the localizer not equal to the answerer."""
    torch.manual_seed(3)
    model = Sevila(tiny_blip2)
    assert model.localizer is not None
    with torch.no_grad():
        model.localizer.query_tokens.add_(torch.randn_like(model.localizer.query_tokens))
    return model.eval()


@pytest.fixture
def make_model(blip2_folder: BackboneFolder) -> Callable[..., Sevila]:
    def make(precision: str = "float32", **changes: Any) -> Sevila:
        backbone = Blip2.load(blip2_folder, dtype_policy=precision)  # type: ignore[arg-type]
        return Sevila(backbone, SevilaConfig(**changes)).eval()

    return make


# --- scores and keyframes ------------------------------------------------------------------------


def test_scores_of_a_batch_equal_scores_of_each_question_and_frame(
    model: Sevila, make_features: Features
) -> None:
    tokens = model.localizer_tokens(make_features(batch=3, frames=4))
    together = model.score_frames(tokens, ASKED)
    for b, prompt in enumerate(ASKED):
        alone = model.score_frames(tokens[b : b + 1], [prompt])
        assert torch.allclose(alone.yes[0], together.yes[b], atol=1e-5)
        for f in range(4):
            one = model.score_frames(tokens[b : b + 1, f : f + 1], [prompt])
            assert torch.allclose(one.no[0, 0], together.no[b, f], atol=1e-5)


@pytest.mark.parametrize("budget", [1, 3, 7, 100])
def test_the_row_budget_changes_no_result(
    model: Sevila, make_model: Callable[..., Sevila], make_features: Features, budget: int
) -> None:
    other = make_model(row_budget=budget)
    load_sides(other, side_state(model, "answerer", "localizer"))
    features = make_features(batch=3, frames=3)
    for ours, theirs in zip(results(model, features), results(other, features), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def results(model: Sevila, features: Tensor) -> list[Tensor]:
    seen, tokens = model.localizer_tokens(features), model.answerer_tokens(features)
    scores = model.score_frames(seen, ASKED)
    letters = [model.answer_letters, model.frame_letters]
    ranks = [model.answer_rank, model.frame_ranks]
    return [
        scores.yes,
        scores.no,
        *(answer(tokens, LISTED, OPTIONS) for answer in letters),
        *(answer(tokens, ASKED, TEXTS) for answer in ranks),
    ]


def test_kept_tokens_give_the_same_results_as_fresh_ones(
    model: Sevila, make_features: Features
) -> None:
    """No text enters a side, so tokens may be kept per frame and put together later."""
    features = make_features(batch=1, frames=5)
    kept = torch.cat([model.localizer_tokens(features[:, f : f + 1]) for f in range(5)], dim=1)
    for prompt in ASKED:
        fresh = model.score_frames(model.localizer_tokens(features), [prompt])
        assert torch.allclose(model.score_frames(kept, [prompt]).yes, fresh.yes, atol=1e-5)


def test_keyframes_are_the_best_frames_in_time_order(
    model: Sevila, make_features: Features
) -> None:
    features = make_features(batch=3, frames=6)
    scores = model.score_frames(model.localizer_tokens(features), ASKED)
    chosen = model.keyframes(features, ASKED, 3)
    assert torch.equal(chosen.indices, scores.yes.topk(3, dim=1).indices.sort(dim=1).values)
    assert torch.equal(chosen.indices, model.select(scores, 3).indices)
    assert torch.equal(chosen.indices, model.select(scores.yes, 3).indices)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_equal_frames_tie_and_the_earlier_ones_are_kept(
    make_model: Callable[..., Sevila], make_features: Features, precision: str
) -> None:
    model = make_model(precision)
    features = make_features(batch=2, frames=1).expand(2, 6, -1, -1)
    scores = model.score_frames(model.localizer_tokens(features), ASKED[:2])
    chosen = model.select(scores, 4)
    assert chosen.indices.tolist() == [[0, 1, 2, 3]] * 2
    assert chosen.ties.tolist() == [2, 2]


def test_half_precision_scores_are_bfloat16_numbers_and_repeat(
    make_model: Callable[..., Sevila], make_features: Features
) -> None:
    model, features = make_model("float16"), make_features(batch=2, frames=8)
    tokens = model.localizer_tokens(features)
    assert tokens.dtype == torch.float32
    first, second = (model.score_frames(tokens, ASKED[:2]).yes for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, first.to(torch.bfloat16).float())
    assert torch.equal(model.select(first, 3).indices, model.select(second, 3).indices)


def test_scores_can_be_rounded_or_left_alone(
    make_model: Callable[..., Sevila], make_features: Features
) -> None:
    features = make_features(batch=2, frames=4)
    exact, rounded = make_model(), make_model(score_rounding="bfloat16")
    scores = exact.score_frames(exact.localizer_tokens(features), ASKED[:2]).yes
    others = rounded.score_frames(rounded.localizer_tokens(features), ASKED[:2]).yes
    assert torch.equal(others, scores.to(torch.bfloat16).float())
    half = make_model("bfloat16", score_rounding="float32")
    unrounded = half.score_frames(half.localizer_tokens(features), ASKED[:2]).yes
    assert not torch.equal(unrounded, unrounded.to(torch.bfloat16).float())


def test_kinds_of_scores() -> None:
    scores = FrameScores(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[1.0, 1.0, 3.0]]))
    assert scores.as_score("yes").tolist() == [[2, 1, 0]]
    assert scores.as_score("yes_minus_no").tolist() == [[1, 0, -3]]
    shares = torch.softmax(torch.stack([scores.yes, scores.no]), dim=0)[0]
    assert torch.allclose(scores.as_score("probability"), shares)
    assert scores.positive.tolist() == [[True, False, False]]  # a tie is a no


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 77), min_size=1, max_size=60),
    st.integers(1, 20),
)
def test_every_row_is_in_one_bucket_of_like_length(lengths: list[int], budget: int) -> None:
    buckets = list(length_buckets(torch.tensor(lengths), budget))
    assert sorted(torch.cat(buckets).tolist()) == list(range(len(lengths)))
    for bucket in buckets:
        found = [lengths[row] for row in bucket.tolist()]
        assert len(found) <= budget
        assert max(found) - min(found) < LENGTH_BUCKET


# --- answers -------------------------------------------------------------------------------------


def test_answers_of_a_batch_equal_answers_one_by_one(
    model: Sevila, make_features: Features
) -> None:
    tokens = model.answerer_tokens(make_features(batch=3, frames=3))
    letters = model.answer_letters(tokens, LISTED, OPTIONS)
    ranks = model.answer_rank(tokens, ASKED, TEXTS)
    for b in range(3):
        one = tokens[b : b + 1]
        alone = model.answer_letters(one, LISTED[b : b + 1], OPTIONS[b : b + 1])
        assert torch.allclose(alone[0], letters[b], atol=1e-5)
        alone = model.answer_rank(one, ASKED[b : b + 1], TEXTS[b : b + 1])
        assert torch.allclose(alone[0], ranks[b, : OPTIONS[b]], atol=1e-5)


def test_options_that_a_question_does_not_have_cannot_be_chosen(
    model: Sevila, make_features: Features
) -> None:
    tokens = model.answerer_tokens(make_features(batch=3, frames=2))
    for scores in (
        model.answer_letters(tokens, LISTED, OPTIONS),
        model.answer_rank(tokens, ASKED, TEXTS),
    ):
        for row, count in zip(scores, OPTIONS, strict=True):
            assert torch.isfinite(row[:count]).all()
            assert (row[count:] == -torch.inf).all()
    with pytest.raises(DataError, match="letters A to E"):
        model.answer_letters(tokens, LISTED, [2, 3, 6])


def test_one_frame_alone_is_read_as_a_single_frame(model: Sevila, make_features: Features) -> None:
    tokens = model.answerer_tokens(make_features(batch=2, frames=3))
    alone = model.frame_letters(tokens, LISTED[:2], OPTIONS[:2])
    assert alone.shape == (2, 3, 5)
    text = model.backbone.read_prompts(LISTED[:1])
    prefix = model.backbone.text.frame_prefix()
    encoded = model.backbone.encode(tokens[:1, 1:2], text, prefix)
    letters = model.backbone.greedy_letters(encoded).letters[0, :2]
    assert torch.allclose(alone[0, 1, :2], letters, atol=1e-5)
    # Together they are numbered, even if there is but one.
    joint = model.answer_letters(tokens[:1, 1:2], LISTED[:1], OPTIONS[:1])
    assert not torch.allclose(joint[0, :2], letters, atol=1e-4)


def test_forced_and_free_letters(
    make_model: Callable[..., Sevila], model: Sevila, make_features: Features
) -> None:
    tokens = model.answerer_tokens(make_features(batch=3, frames=2))
    free = model.answer_letters(tokens, LISTED, OPTIONS)
    forced = model.answer_letters(tokens, LISTED, OPTIONS, forced=True)
    assert torch.equal(free, model.answer_letters(tokens, LISTED, OPTIONS, forced=False))
    assert not torch.allclose(free, forced)  # a random T5 does not begin with `Option`
    default = make_model(first_token="forced").answer_letters(tokens, LISTED, OPTIONS)
    assert torch.equal(default, forced)


def test_rank_scores_are_sums_of_token_log_probabilities(
    make_model: Callable[..., Sevila], model: Sevila, make_features: Features
) -> None:
    tokens = model.answerer_tokens(make_features(batch=3, frames=2))
    sums, backbone = model.answer_rank(tokens, ASKED, TEXTS), model.backbone
    means = make_model(rank_norm="mean").answer_rank(tokens, ASKED, TEXTS)
    encoded = Rows.of(backbone, tokens, ASKED, single=False).encode()
    labels = backbone.labels([TEXTS[1][2]])
    logits = backbone.target_logits(encoded.rows(torch.tensor([1])), labels)
    expected = logits.log_softmax(-1)[0].gather(1, labels.T).sum()
    assert torch.allclose(sums[1, 2], expected, atol=1e-4)
    assert torch.allclose(means[1, 2], expected / labels.shape[1], atol=1e-4)


def test_open_ended_answers_are_texts(model: Sevila, make_features: Features) -> None:
    tokens = model.answerer_tokens(make_features(batch=3, frames=2))
    texts, alone = model.answer_text(tokens, ASKED), model.frame_texts(tokens, ASKED)
    assert [len(texts), [len(row) for row in alone]] == [3, [2, 2, 2]]
    assert all(isinstance(text, str) for row in alone for text in row)
    one = model.frame_texts(tokens[1:2, 1:2], ASKED[1:2])
    assert one == [[alone[1][1]]]


def test_other_numbers_of_prompts_are_refused(model: Sevila, make_features: Features) -> None:
    tokens = model.answerer_tokens(make_features(batch=2))
    with pytest.raises(DataError, match="3 prompts"):
        model.answer_letters(tokens, LISTED, OPTIONS)
    with pytest.raises(DataError, match="number"):
        model.pseudo_labels(tokens, LISTED[:2], [0, 1])


# --- pseudo-labels -------------------------------------------------------------------------------


def test_a_frame_is_a_yes_if_it_alone_leads_to_the_right_option(
    model: Sevila, make_features: Features
) -> None:
    tokens = model.answerer_tokens(make_features(batch=3, frames=6))
    for made, scores in (
        (
            model.pseudo_labels(tokens, LISTED, [1, 0, 4], num_options=OPTIONS),
            model.frame_letters(tokens, LISTED, OPTIONS, forced=True),
        ),
        (
            model.pseudo_labels(tokens, ASKED, [1, 0, 4], options=TEXTS),
            model.frame_ranks(tokens, ASKED, TEXTS),
        ),
    ):
        assert torch.equal(made.scores, scores)
        assert torch.equal(made.predictions, first_argmax(scores))
        for b, answer in enumerate([1, 0, 4]):
            assert torch.equal(made.labels[b], made.predictions[b] == answer)
            shares = torch.softmax(scores[b], dim=-1)[:, answer]
            assert torch.allclose(made.confidence[b], shares)
        assert ((made.confidence >= 0) & (made.confidence <= 1)).all()


def test_pseudo_labels_repeat_in_eval_mode_and_vary_with_dropout(
    model: Sevila, make_features: Features
) -> None:
    tokens = model.answerer_tokens(make_features(batch=3, frames=6))

    def scores() -> Tensor:
        return model.pseudo_labels(tokens, LISTED, [1, 0, 4], num_options=OPTIONS).scores

    assert torch.equal(scores(), scores())
    model.train()
    assert not torch.equal(scores(), scores())


# --- what trains ---------------------------------------------------------------------------------


def trained(model: Sevila) -> set[str]:
    return {n.removeprefix("backbone.") for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("side", ["answerer", "localizer"])
def test_one_side_trains_and_nothing_else_moves(
    model: Sevila, make_features: Features, side: Any
) -> None:
    model.train_side(side).train()
    assert trained(model) == {f"{side}.{n}" for n, _ in model.side(side).named_parameters()}
    loss = loss_of(model, make_features(), side)
    loss.backward()
    for name, parameter in model.named_parameters():
        moved = parameter.grad is not None
        assert moved == name.removeprefix("backbone.").startswith(f"{side}."), name


def loss_of(model: Sevila, features: Tensor, side: Any) -> Tensor:
    if side == "answerer":
        targets: Sequence[str] | Tensor = ["Option A", "Option C"]
    else:
        targets = torch.arange(features.shape[1]).expand(len(features), -1) % 2 == 0
    return model(features, LISTED[: len(features)], targets, side=side).loss


def test_nothing_trains_at_first_and_the_norm_can_be_left_out(
    model: Sevila, make_model: Callable[..., Sevila]
) -> None:
    assert trained(model) == set()
    frozen = make_model(train_ln_vision=False).train_side("localizer")
    assert trained(model.train_side("localizer")) - trained(frozen) == {
        "localizer.ln_vision.weight",
        "localizer.ln_vision.bias",
    }
    assert trained(model.train_side(None)) == set()


def test_dropout_of_frozen_parts_is_the_references_or_off(
    make_model: Callable[..., Sevila], make_features: Features
) -> None:
    features = make_features(batch=2, frames=4)
    for dropout in (True, False):
        model = make_model(frozen_dropout=dropout).train_side("answerer").train()
        assert model.localizer is not None
        assert model.backbone.answerer.qformer.training
        assert model.localizer.training is dropout
        assert model.backbone.language_model.training is dropout
        first, second = (
            model.score_frames(model.localizer_tokens(features), ASKED[:2]).yes for _ in range(2)
        )
        assert torch.equal(first, second) is not dropout
        model.eval()
        assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("side", ["answerer", "localizer"])
def test_a_few_steps_of_training_lower_the_loss(
    model: Sevila, make_features: Features, side: Any
) -> None:
    features = make_features(batch=2, frames=2)
    model.train_side(side)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(12):
        loss = loss_of(model, features, side)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("side", ["answerer", "localizer"])
def test_both_sides_train_in_half_precision_with_float32_weights(
    make_model: Callable[..., Sevila], make_features: Features, precision: str, side: Any
) -> None:
    model = make_model(precision).train_side(side).train()
    loss = loss_of(model, make_features(), side)
    loss.backward()
    exact = make_model().train_side(side)
    assert loss.item() == pytest.approx(loss_of(exact, make_features(), side).item(), rel=0.2)
    for parameter in model.side(side).parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert torch.isfinite(parameter.grad).all()


def test_a_model_without_localizer_answers_but_scores_nothing(
    tiny_blip2: Blip2, make_features: Features
) -> None:
    model = Sevila(tiny_blip2, with_localizer=False).eval()
    assert not any(name.startswith("localizer.") for name in model.state_dict())
    tokens = model.answerer_tokens(make_features(batch=3), uniform=True)
    assert model.answer_letters(tokens, LISTED, OPTIONS).shape == (3, 5)
    with pytest.raises(ConfigError, match="without a localizer"):
        model.localizer_tokens(make_features())
    with pytest.raises(ConfigError, match="without a localizer"):
        model.train_side("localizer")


# --- losses --------------------------------------------------------------------------------------


def localizer_loss(
    model: Sevila, features: Tensor, labels: Tensor, weights: Tensor | None = None
) -> Tensor:
    return model.localizer_loss(features, LISTED[: len(features)], labels, weights=weights).loss


@torch.no_grad()
def test_the_localizers_loss_is_the_mean_over_both_tokens_of_all_frames(
    model: Sevila, make_features: Features
) -> None:
    features, labels = make_features(), torch.tensor([[1, 0, 0, 1], [0, 0, 0, 1]]) == 1
    output = model.localizer_loss(features, LISTED[:2], labels)
    assert output.logits.shape[:2] == (8, 2)
    targets = model.backbone.labels(["yes" if label else "no" for label in labels.flatten()])
    shares = output.logits.log_softmax(-1).gather(2, targets[..., None])
    assert torch.allclose(output.loss, -shares.mean(), atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(shares=st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_soft_labels_give_the_expectation_of_the_hard_loss(
    blip2_folder: BackboneFolder, shares: list[float]
) -> None:
    model = Sevila(Blip2.load(blip2_folder)).eval()
    features = torch.randn(1, 4, 5, 16, generator=torch.Generator().manual_seed(0))
    soft = torch.tensor([shares])
    with torch.no_grad():
        # The loss is a sum over frames, so each frame's expectation can be taken alone.
        expected = 0.0
        for f, share in enumerate(shares):
            only = torch.nn.functional.one_hot(torch.tensor([f]), 4).float()
            yes, no = (
                localizer_loss(model, features, torch.full((1, 4), label), only).item()
                for label in (True, False)
            )
            expected += (share * yes + (1 - share) * no) / 4
        assert localizer_loss(model, features, soft).item() == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
def test_frames_of_weight_zero_do_not_count(model: Sevila, make_features: Features) -> None:
    features, labels = make_features(batch=1), torch.tensor([[True, False, True, False]])
    some = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    left_out = localizer_loss(model, features, labels, some)
    assert torch.allclose(left_out, localizer_loss(model, features[:, :2], labels[:, :2]))
    assert localizer_loss(model, features, labels, torch.zeros(1, 4)) == 0


@torch.no_grad()
def test_class_balance_is_the_mean_of_both_classes_means(
    make_model: Callable[..., Sevila], make_features: Features
) -> None:
    model, features = make_model(class_balance=True), make_features(batch=1)
    labels = torch.tensor([[True, False, False, False]])
    yes, no = (
        localizer_loss(model, features[:, index], labels[:, index])
        for index in (slice(0, 1), slice(1, 4))
    )
    assert torch.allclose(localizer_loss(model, features, labels), (yes + no) / 2, atol=1e-6)
    some = torch.tensor([[1.0, 1.0, 0.0, 0.0]])  # frames that are left out do not count here either
    fewer = localizer_loss(model, features[:, :2], labels[:, :2])
    assert torch.allclose(localizer_loss(model, features, labels, some), fewer, atol=1e-6)
    only_no = torch.zeros_like(labels)
    plain = localizer_loss(make_model(), features, only_no)
    assert torch.allclose(localizer_loss(model, features, only_no), plain)


@torch.no_grad()
def test_the_answerers_loss_on_single_frames_is_the_mean_over_frames(
    model: Sevila, make_features: Features
) -> None:
    features, targets = make_features(), ["Option A", "Option C"]
    together = model.answerer_loss(features, LISTED[:2], targets, single=True)
    assert together.logits.shape[:2] == (8, 3)
    parts = [
        model.answerer_loss(features[:, f : f + 1], LISTED[:2], targets, single=True).loss
        for f in range(4)
    ]
    assert torch.allclose(together.loss, torch.stack(parts).mean(), atol=1e-5)
    assert together.parts == {"answer_loss": together.loss}


def test_the_localizer_does_not_learn_texts(model: Sevila, make_features: Features) -> None:
    with pytest.raises(DataError, match="labels per frame"):
        model(make_features(), LISTED[:2], ["yes", "no"], side="localizer")


# --- weights -------------------------------------------------------------------------------------


def test_a_localizer_begins_as_a_copy_of_the_backbones_side(tiny_blip2: Blip2) -> None:
    model = Sevila(tiny_blip2)
    sides = side_state(model, "answerer", "localizer")
    for name, tensor in side_state(model, "answerer").items():
        twin = sides[name.replace("answerer.", "localizer.", 1)]
        assert torch.equal(tensor, twin)
        assert tensor.data_ptr() != twin.data_ptr()


def test_sides_are_saved_and_loaded_one_by_one(
    model: Sevila, make_model: Callable[..., Sevila]
) -> None:
    other, kept = make_model(), side_state(model, "localizer")
    assert all(name.startswith("localizer.") for name in kept)
    before = {n: t.clone() for n, t in side_state(other, "answerer").items()}
    load_sides(other, kept)
    after = side_state(other, "answerer", "localizer")
    assert all(torch.equal(after[name], kept[name]) for name in kept)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_weights_that_do_not_fit_are_refused(model: Sevila) -> None:
    state = side_state(model, "localizer")
    for wrong in (
        {},
        {**state, "teacher.query_tokens": state["localizer.query_tokens"]},
        {name: value for name, value in state.items() if name != "localizer.query_tokens"},
        {**state, "localizer.query_tokens": torch.zeros(1, 9, 24)},
    ):
        with pytest.raises(DataError):
            load_sides(model, wrong)


def test_parts_are_counted(model: Sevila) -> None:
    counts = parameter_counts(model.train_side("localizer"))
    assert counts["trainable"] == counts["localizer"] == counts["answerer"]
    assert counts["total"] == sum(counts[k] for k in ("localizer", "answerer", "language_model"))
