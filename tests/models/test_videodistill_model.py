"""VideoDistill as a whole: two ways through it, what it depends on, what each loss trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from stages.core.errors import ConfigError, DataError
from stages.models.backbones.folder import BackboneFolder
from stages.models.matching import Exchange
from stages.models.text_tower import TextTower, TokenIds
from stages.models.videodistill import (
    Captions,
    Choice,
    Contrastive,
    OpenEnded,
    Target,
    Task,
    VideoDistill,
    VideoFeatures,
    load_weights,
)
from stages.models.videodistill_config import TABLE_4, VideoDistillConfig

TEXT: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 12,
    "bos_token_id": 1,
    "eos_token_id": 29,
    "pad_token_id": 29,
}
N, K, P, C, CLS = 6, 3, 4, 10, 14
TASKS: tuple[Task, ...] = get_args(Task)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model_of(
    *, seed: int = 0, captions: bool = True, chunk: int | None = None, **changes: Any
) -> VideoDistill:
    torch.manual_seed(seed)
    values = {"frames": N, "keep": K, "layers": 2, "width": 24, "heads": 3, "answers": 5} | changes
    return VideoDistill(
        TextTower.from_config(TEXT), VideoDistillConfig(**values), patches=P, patch_width=C,
        cls_width=CLS, with_captions=captions, frame_chunk=chunk,
    ).eval()  # fmt: skip


def videos_of(rows: int = 4, seed: int = 0) -> VideoFeatures:
    return VideoFeatures(random(rows, N, CLS, seed=seed), random(rows, N, P, C, seed=seed + 1))


def tokens_of(rows: int = 4, seed: int = 0) -> TokenIds:
    """Begin = 1, end = 29 = padding; lengths differ."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 29, (rows, 8), generator=generator)
    lengths = torch.arange(rows)[:, None] % 4 + 5
    ids[:, 0] = 1
    ids[torch.arange(8) >= lengths - 1] = 29
    return TokenIds(ids, (torch.arange(8) < lengths).long())


def target_of(task: Task, model: VideoDistill, tokens: TokenIds) -> Target:
    if task == "open-ended":
        return OpenEnded(torch.tensor([0, 3, -100, 4]))
    if task == "choice":
        return Choice((2, 2), torch.tensor([1, 0]))
    if task == "contrastive":
        return Contrastive()
    drawn = model.draw_captions(tokens, torch.Generator().manual_seed(0))
    source = torch.tensor([0, 2, 1, 3])
    return Captions(Exchange(source, source == torch.arange(4)), drawn.masked)


def gradients(model: VideoDistill) -> dict[str, float]:
    return {
        name: 0.0 if p.grad is None else p.grad.abs().max().item()
        for name, p in model.named_parameters()
    }


# --- the text tower ------------------------------------------------------------------------------


def test_text_tower_equals_transformers_clip() -> None:
    torch.manual_seed(0)
    clip = CLIPTextModel(CLIPTextConfig(**TEXT)).eval()
    tower, tokens = TextTower(clip).eval(), tokens_of()
    ours, theirs = tower(tokens), clip(tokens.ids, attention_mask=tokens.mask)
    real = tokens.mask.bool()
    assert torch.allclose(ours.words[real], theirs.last_hidden_state[real], atol=1e-5)
    assert torch.allclose(ours.sentence, theirs.pooler_output, atol=1e-5)


def test_text_tower_comes_out_of_a_clip_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    clip = CLIPTextModel(CLIPTextConfig(**TEXT)).eval()
    inner = getattr(clip, "text_model", clip)
    state = {f"text_model.{name}": tensor for name, tensor in inner.state_dict().items()}
    state["visual_projection.weight"] = torch.zeros(2, 2)
    save_file(state, tmp_path / "model.safetensors")
    config = {"model_type": "clip", "text_config": TEXT}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tower, tokens = TextTower.load(BackboneFolder(tmp_path)).eval(), tokens_of()
    assert torch.equal(tower(tokens).sentence, TextTower(clip)(tokens).sentence)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}), encoding="utf-8")
    with pytest.raises(DataError, match="text_config"):
        TextTower.load(BackboneFolder(tmp_path))


def test_masked_words_are_shown_as_the_mask_embedding() -> None:
    tower, tokens = model_of().text, tokens_of()
    masked = torch.zeros_like(tokens.ids, dtype=torch.bool)
    masked[1, 2] = True
    other = tokens.ids.clone()
    other[1, 2] = (other[1, 2] + 5) % 27 + 2
    shown = tower(tokens, masked).words
    assert torch.equal(shown, tower(TokenIds(other, tokens.mask), masked).words)
    assert not torch.allclose(shown, tower(tokens).words)


def test_a_text_longer_than_the_positions_is_refused() -> None:
    long = TokenIds(torch.ones(1, 13, dtype=torch.long), torch.ones(1, 13, dtype=torch.long))
    with pytest.raises(DataError, match="12 positions"):
        model_of().encode_text(long)


# --- two ways, one result ------------------------------------------------------------------------


@pytest.mark.parametrize("row", sorted(set(TABLE_4) - {"c"}))
def test_reading_the_chosen_frames_equals_having_all_in_memory(row: str) -> None:
    model, video, tokens = model_of(**TABLE_4[row]), videos_of(), tokens_of()
    assert not model.reads_all_frames
    with torch.no_grad():
        text = model.encode_text(tokens)
        whole = model.see(video, text)
        slots = model.select(video.cls, text)
        read = [[video.patches[r, n] for n in row] for r, row in enumerate(slots.indices.tolist())]
        patches = torch.stack([torch.stack(frames) for frames in read])
        by_frame = model.refine(patches, text)
    assert torch.equal(whole.v_cls, by_frame)
    assert torch.equal(whole.slots.indices, slots.indices)
    learning = model.see(video, model.encode_text(tokens))  # with gradients, through the mask
    assert torch.allclose(learning.v_cls, by_frame, atol=1e-6)


def test_soft_sampling_reads_all_frames() -> None:
    model, video, text = model_of(sampler="soft"), videos_of(), tokens_of()
    assert model.reads_all_frames
    seen = model.see(video, model.encode_text(text))
    weights = torch.softmax(seen.slots.logits, dim=-1)  # type: ignore[arg-type]
    mean = torch.einsum("rkn,rnpc->rkpc", weights, video.patches)
    assert torch.allclose(model.refine(mean, model.encode_text(text)), seen.v_cls, atol=1e-5)


def test_patches_of_frames_that_were_not_chosen_do_not_matter() -> None:
    model, video, tokens = model_of(), videos_of(), tokens_of()
    text = model.encode_text(tokens)
    seen = model.see(video, text)
    unseen = torch.ones(4, N, dtype=torch.bool)
    unseen[torch.arange(4)[:, None], seen.slots.indices] = False
    changed = video.patches.clone()
    changed[unseen] = 50.0
    again = model.see(VideoFeatures(video.cls, changed), text)
    assert torch.equal(seen.v_cls, again.v_cls)


@pytest.mark.parametrize("row", sorted(TABLE_4))
def test_batch_equals_single_rows(row: str) -> None:
    model, video, tokens = model_of(**TABLE_4[row]), videos_of(), tokens_of()
    both = model.see(video, model.encode_text(tokens)).v_cls
    for i in range(4):
        length = int(tokens.mask[i].sum())
        alone = TokenIds(tokens.ids[i : i + 1, :length], tokens.mask[i : i + 1, :length])
        one = VideoFeatures(video.cls[i : i + 1], video.patches[i : i + 1])
        assert torch.allclose(model.see(one, model.encode_text(alone)).v_cls[0], both[i], atol=1e-5)


@pytest.mark.parametrize("row", sorted(TABLE_4))
@pytest.mark.parametrize("chunk", [None, 2])
def test_rows_may_share_videos_and_sentences(row: str, chunk: int | None) -> None:
    """Every (sentence, video) pair as a row gives what pairing them by hand gives."""
    model, video, tokens = model_of(chunk=chunk, **TABLE_4[row]), videos_of(2), tokens_of(3)
    text = model.encode_text(tokens)
    sentences, videos = torch.arange(3).repeat_interleave(2), torch.arange(2).repeat(3)
    pairs = model.see(video, text.rows(sentences), videos=videos)
    owned = VideoFeatures(video.cls[videos], video.patches[videos])
    by_hand = model.see(owned, text.rows(sentences))
    assert torch.allclose(pairs.v_cls, by_hand.v_cls, atol=1e-6)
    assert torch.equal(pairs.slots.indices, by_hand.slots.indices)


def test_half_precision_features_are_read_as_they_are_stored() -> None:
    model, video, text = model_of(), videos_of(), model_of().encode_text(tokens_of())
    half = VideoFeatures(video.cls.half(), video.patches.half())
    exact = VideoFeatures(half.cls.float(), half.patches.float())
    assert torch.equal(model.see(half, text).v_cls, model.see(exact, text).v_cls)


def test_mixed_precision_chooses_the_same_frames() -> None:
    model, video, tokens = model_of(), videos_of(), tokens_of()
    text = model.encode_text(tokens)
    exact = model.see(video, text)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model.see(video, text)
    assert torch.equal(exact.slots.indices, rough.slots.indices)
    assert torch.allclose(exact.v_cls, rough.v_cls.float(), atol=0.2)


# --- what the answer depends on ------------------------------------------------------------------


def test_language_only_answers_do_not_depend_on_the_video() -> None:
    model, tokens = model_of(), tokens_of()
    text = model.encode_text(tokens)
    answers = []
    for seed in (0, 50):
        video = videos_of(seed=seed)
        scaled = VideoFeatures(video.cls * (seed + 1), video.patches + seed)
        generator = torch.Generator().manual_seed(7)
        noise = model.gaussian_video(4, scaled.cls, scaled.patches, generator)
        answers.append(model.answer_logits(model.see(noise, text).v_cls))
    assert torch.equal(answers[0], answers[1])
    assert not torch.allclose(answers[0], model.answer_logits(model.see(videos_of(), text).v_cls))


def test_a_static_video_is_one_video_for_all_questions() -> None:
    model, text = model_of(), model_of().encode_text(tokens_of())
    static = torch.zeros(4, dtype=torch.long)
    logits = model.answer_logits(model.see(videos_of(1), text, videos=static).v_cls)
    assert len(logits) == 4


def test_uniform_and_all_frames_are_chosen_without_looking() -> None:
    text = model_of().encode_text(tokens_of())
    uniform = model_of(sampler="uniform").select(videos_of().cls, text)
    assert uniform.indices.tolist() == [[1, 3, 5]] * 4
    every = model_of(sampler="none", keep=N).select(videos_of().cls, text)
    assert every.indices.tolist() == [list(range(N))] * 4
    assert uniform.frame_scores is None


def test_noise_is_drawn_where_the_config_wants_it() -> None:
    def drawn(training: bool, **changes: Any) -> Tensor | None:
        model = model_of(**changes).train(training)
        return model.draw_noise(2, N, torch.Generator().manual_seed(0))

    assert drawn(False) is None
    assert drawn(True) is not None
    assert drawn(False, eval_noise=True) is not None
    assert drawn(True, train_noise=False) is None
    assert drawn(True, sampler="uniform") is None
    assert drawn(True, sampler="soft").shape == (2, K, N)  # type: ignore[union-attr]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31))
def test_slots_can_be_sorted_by_time(seed: int) -> None:
    plain, by_time = model_of(), model_of(sort_slots=True)
    by_time.load_state_dict(plain.state_dict())
    text, cls = plain.encode_text(tokens_of(seed=seed % 100)), videos_of(seed=seed).cls
    noise = random(4, K, N, seed=seed)
    expected = plain.select(cls, text, noise=noise).indices.sort(dim=1).values
    assert torch.equal(by_time.select(cls, text, noise=noise).indices, expected)


# --- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", sorted(TABLE_4))
@pytest.mark.parametrize("task", TASKS)
def test_every_variant_takes_a_step_and_trains_all_it_should(row: str, task: Task) -> None:
    model = model_of(contrastive_width=8, **TABLE_4[row]).train_for(task).train()
    tokens, video = tokens_of(), videos_of()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    noise = model.draw_noise(4, N, torch.Generator().manual_seed(1))
    output = model(video, tokens, target_of(task, model, tokens), noise=noise)
    output.loss.backward()
    optimiser.step()
    assert torch.isfinite(output.loss)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
        else:
            assert name.split(".")[0] in ("answer", "matched", "mlm", "text") or (
                name.startswith("contrastive_")
            ), name
            assert torch.equal(parameter, before[name]), name
    assert not torch.equal(before["project_text.linear.weight"], model.project_text.linear.weight)
    assert gradients(model)["text.model.embeddings.token_embedding.weight"] > 0


@pytest.mark.parametrize("keep", [1, 2 * N])
def test_mixed_precision_trains_from_half_precision_features(keep: int) -> None:
    """Also with more slots than frames: frames may be chosen twice."""
    model, tokens, video = (
        model_of(keep=keep).train_for("captions").train(),
        tokens_of(),
        videos_of(),
    )
    half = VideoFeatures(video.cls.half(), video.patches.half())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(half, tokens, target_of("captions", model, tokens))
    output.loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def test_only_the_heads_of_a_task_are_trained() -> None:
    trained = {
        task: {
            name.split(".")[0]
            for name, p in model_of(contrastive_width=8).train_for(task).named_parameters()
            if p.requires_grad
        }
        for task in TASKS
    }
    always = {"text", "project_text", "project_cls", "project_patches", "sampler", "refinement"}
    contrastive = {"contrastive_video", "contrastive_text"}
    assert trained["open-ended"] == always | {"answer"}
    assert trained["choice"] == always | {"matched"}
    assert trained["contrastive"] == always | contrastive
    assert trained["captions"] == always | contrastive | {"matched", "mlm"}
    assert not model_of().train_for("captions").text.mask_embedding.requires_grad
    assert model_of(mlm_stopgrad=False).train_for("captions").text.mask_embedding.requires_grad


def test_tasks_without_their_head_are_refused() -> None:
    with pytest.raises(DataError, match="with_captions"):
        model_of(captions=False).train_for("captions")
    with pytest.raises(DataError, match="vocabulary"):
        model_of(answers=None).train_for("open-ended")
    with pytest.raises(DataError, match="answer head"):
        model_of(answers=None).answer_logits(random(1, 24))


def test_losses_of_the_downstream_tasks_are_their_definitions() -> None:
    model, video, tokens = model_of(), videos_of(), tokens_of()
    v_cls = model.see(video, model.encode_text(tokens)).v_cls
    answers = torch.tensor([0, 3, -100, 4])
    logs = torch.log_softmax(model.answer_logits(v_cls), dim=-1)
    expected = -(logs[0, 0] + logs[1, 3] + logs[3, 4]) / 3
    output = model(video, tokens, OpenEnded(answers))
    assert torch.allclose(output.loss, expected, atol=1e-5)
    none = model(video, tokens, OpenEnded(torch.full((4,), -100)))
    assert none.loss == 0
    scores = model.match_scores(v_cls).reshape(2, 2)
    chosen = model(video, tokens, Choice((2, 2), torch.tensor([1, 0])))
    expected = torch.nn.functional.cross_entropy(scores, torch.tensor([1, 0]))
    assert torch.allclose(chosen.loss, expected, atol=1e-5)
    assert torch.allclose(chosen.logits, scores, atol=1e-6)
    cosines = model(video, tokens, Contrastive()).logits.diagonal()
    assert torch.allclose(cosines, model.similarity(v_cls, model.encode_text(tokens)), atol=1e-5)


def test_multiple_choice_over_texts_and_over_videos() -> None:
    """Two questions of two options on one video each; one text against four videos."""
    model, tokens = model_of(), tokens_of()
    texts = model(
        videos_of(2), tokens, Choice((2, 2), torch.tensor([0, 1])),
        videos=torch.tensor([0, 0, 1, 1]),
    )  # fmt: skip
    assert texts.logits.shape == (2, 2)
    same = tokens.rows(torch.zeros(4, dtype=torch.long))
    videos = model(videos_of(4), same, Choice((4,), torch.tensor([2])))
    assert videos.logits.shape == (1, 4)
    assert torch.isfinite(texts.loss + videos.loss)


# --- pre-training --------------------------------------------------------------------------------


def test_pretraining_adds_its_losses_by_their_weights() -> None:
    model, video, tokens = model_of(), videos_of(), tokens_of()
    target = target_of("captions", model, tokens)
    output = model(video, tokens, target)
    assert set(output.parts) == {"vtm", "contrastive", "mlm"}
    assert torch.allclose(output.loss, sum(output.parts.values()), atol=1e-6)  # type: ignore[arg-type]
    for only in ("vtm", "contrastive", "mlm"):
        weights = {f"{name}_weight": 2.0 * (name == only) for name in output.parts}
        single = model_of(**weights)
        part = single(video, tokens, target)
        assert set(part.parts) == {only}
        assert torch.allclose(part.loss, 2 * output.parts[only], atol=1e-5)


@pytest.mark.parametrize("stopgrad", [True, False])
def test_guessing_words_passes_no_gradient_through_the_masked_caption(stopgrad: bool) -> None:
    """With v_cls* held fixed, the text tower learns nothing from VG-MLM."""
    model = model_of(mlm_stopgrad=stopgrad).train_for("captions")
    tokens = tokens_of()
    target = target_of("captions", model, tokens)
    model._guess_words(random(4, 24), tokens, target).backward()  # type: ignore[arg-type]
    touched = {name.split(".")[0] for name, size in gradients(model).items() if size > 0}
    assert touched == ({"mlm"} if stopgrad else {"mlm", "text", "project_text"})
    assert (gradients(model)["text.mask_embedding"] > 0) == (not stopgrad)


def test_guessing_words_trains_the_visual_side_and_the_sentence() -> None:
    weights = {"vtm_weight": 0.0, "contrastive_weight": 0.0}
    model = model_of(**weights).train_for("captions")
    tokens = tokens_of()
    model(videos_of(), tokens, target_of("captions", model, tokens)).loss.backward()
    sizes = gradients(model)
    for name in ("refinement.tokens.cls", "sampler.scores.weight", "mlm.hidden.weight",
                 "project_text.linear.weight", "text.model.final_layer_norm.weight"):  # fmt: skip
        assert sizes[name] > 0, name


def test_videos_of_exchanged_pairs_never_enter_contrast_and_word_guessing() -> None:
    model, video, tokens = model_of(), videos_of(), tokens_of()
    target = target_of("captions", model, tokens)  # rows 1 and 2 are exchanged
    changed = VideoFeatures(video.cls.clone(), video.patches.clone())
    changed.cls[1:3], changed.patches[1:3] = random(2, N, CLS, seed=9), random(2, N, P, C, seed=8)
    before, after = model(video, tokens, target).parts, model(changed, tokens, target).parts
    assert torch.allclose(before["contrastive"], after["contrastive"], atol=1e-6)
    assert torch.allclose(before["mlm"], after["mlm"], atol=1e-6)
    assert not torch.allclose(before["vtm"], after["vtm"])


def test_captions_of_exchanged_pairs_are_negatives_unless_left_out() -> None:
    tokens, video = tokens_of(), videos_of()
    other = TokenIds(tokens.ids.clone(), tokens.mask)
    other.ids[1:3, 1:3] = torch.tensor([[5, 6], [7, 8]])
    for negatives in ("batch", "matched"):
        model = model_of(contrastive_negatives=negatives)
        target = target_of("captions", model, tokens)
        losses = [model(video, t, target).parts["contrastive"] for t in (tokens, other)]
        assert torch.allclose(*losses, atol=1e-6) == (negatives == "matched")


def test_the_video_is_refined_with_the_exchanged_caption() -> None:
    model, video, tokens = model_of(), videos_of(), tokens_of()
    output = model(video, tokens, target_of("captions", model, tokens))
    given_captions = model.encode_text(tokens.rows(torch.tensor([0, 2, 1, 3])))
    assert torch.allclose(output.seen.v_cls, model.see(video, given_captions).v_cls, atol=1e-6)


def test_a_batch_in_which_all_captions_were_exchanged_still_trains_matching() -> None:
    model, tokens = model_of(contrastive_width=8).train_for("captions"), tokens_of(2)
    masked = model.draw_captions(tokens, torch.Generator().manual_seed(0)).masked
    exchange = Exchange(torch.tensor([1, 0]), torch.tensor([False, False]))
    output = model(videos_of(2), tokens, Captions(exchange, masked))
    assert output.parts["contrastive"] == 0
    assert output.parts["mlm"] == 0
    output.loss.backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []  # idle parameters would stop distributed training
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_end_token_can_stand_for_masked_words() -> None:
    tokens = tokens_of()
    losses = []
    for mask_token in ("learned", "end"):
        model = model_of(mask_token=mask_token)
        losses.append(model(videos_of(), tokens, target_of("captions", model, tokens)).parts["mlm"])
    assert not torch.allclose(*losses)


# --- config and weights --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"heads": 5},
        {"sampler": "none"},
        {"sampler": "uniform", "keep": N + 1},
        {"max_frames": N - 1},
        {"sampler": "uniform", "refinement": False, "fusion": "cross_attention"},
        {"vtm_weight": 0, "contrastive_weight": 0, "mlm_weight": 0},
        {"tau": 0},
        {"unknown": 1},
    ],
)
def test_impossible_configs_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        VideoDistillConfig.build({"frames": N, "keep": K, "width": 24, "heads": 3} | values)


def test_temperature_goes_from_start_to_end_geometrically() -> None:
    config = VideoDistillConfig(frames=N, keep=K, tau=2.0, tau_end=0.5)
    assert [config.tau_at(p) for p in (0, 0.5, 1, 2)] == pytest.approx([2.0, 1.0, 0.5, 0.5])
    assert VideoDistillConfig(frames=N, keep=K).tau_at(0.7) == 1


def test_weights_return_and_start_another_training() -> None:
    pretrained, tuned = model_of(), model_of(seed=1, captions=False, answers=7)
    load_weights(model_of(seed=2), pretrained.state_dict())
    with pytest.raises(DataError, match=r"mlm\.hidden"):
        load_weights(tuned, pretrained.state_dict())
    own_head = tuned.state_dict()["answer.vocabulary.weight"].clone()
    load_weights(tuned, pretrained.state_dict(), start=True)
    assert torch.equal(tuned.state_dict()["answer.vocabulary.weight"], own_head)
    assert torch.equal(tuned.matched.weight, pretrained.matched.weight)
    text = tokens_of()
    seen = [m.see(videos_of(), m.encode_text(text)).v_cls for m in (pretrained, tuned)]
    assert torch.equal(*seen)
    with pytest.raises(DataError, match="sampler"):
        load_weights(model_of(frames=N + 1), pretrained.state_dict(), start=True)


@pytest.mark.parametrize(
    "options",
    [
        {"input_norm": False}, {"gate_norm": False}, {"activation": "relu"}, {"mlp_ratio": 2},
        {"refine_skip": "input"}, {"final_norm": False}, {"match_score": "margin"},
        {"contrastive_width": 8}, {"max_frames": N + 4},
    ],
)  # fmt: skip
def test_each_option_changes_the_network(options: dict[str, Any]) -> None:
    plain, changed = model_of(), model_of(**options)
    tokens, video = tokens_of(), videos_of()
    loss = changed(video, tokens, Choice((2, 2), torch.tensor([0, 1]))).loss
    assert torch.isfinite(loss)
    layouts = [{n: t.shape for n, t in m.state_dict().items()} for m in (plain, changed)]
    if layouts[0] == layouts[1]:
        changed.load_state_dict(plain.state_dict())
        scores = [
            m.match_scores(m.see(video, m.encode_text(tokens)).v_cls) for m in (plain, changed)
        ]
        assert not torch.allclose(*scores, atol=1e-6)


def test_sentences_and_videos_must_go_together() -> None:
    model = model_of()
    text = model.encode_text(tokens_of(3))
    with pytest.raises(DataError, match="3 sentences for 4 videos"):
        model.select(videos_of(4).cls, text)
    with pytest.raises(DataError):
        model.refine(random(2, K, P, C), text)
