"""The pooled tier: small, equal to what its tokens say, and enough to choose frames by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stages.artifacts.features import FeatureReader, decode_values, encode_values
from stages.artifacts.store import Artifact, Workspace
from stages.benchmarks.batches import load_questions
from stages.core.errors import ConfigError
from stages.core.runtime import Runtime
from stages.features import FeatureChoices, FeaturesConfig, extract_features, feature_job
from stages.models.pooled import pool_tokens
from stages.models.vlap import VlapConfig
from stages.prepare import prepare_shapes
from stages.systems.seen import SeenFrames
from stages.video.clips import clip_spans

ONE_WORKER = Runtime(workers=1, device="cpu")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    torch.set_num_threads(1)
    made = Workspace(tmp_path_factory.mktemp("pooled"))
    prepare_shapes(made, "test", ONE_WORKER, num_videos=2, seed=4)
    return made


def features(workspace: Workspace, backbone: str = "tiny", **choices: Any) -> Artifact:
    job = feature_job(
        workspace,
        workspace.finished("questions")[0],
        backbone,
        FeatureChoices(**choices),
        device="cpu",
        decoder="auto",
        from_videos=True,
        sampling={"frames": [4]},
    )
    made = extract_features(workspace, job, ONE_WORKER).artifact
    assert made is not None
    return made


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "float8"])
def test_the_stored_tier_is_what_the_stored_tokens_pool_to(
    workspace: Workspace, dtype: str
) -> None:
    reader = FeatureReader(features(workspace, dtype=dtype, pooled=True))
    rows = np.concatenate([reader.clip(s.key, 4).rows for s in clip_spans_of(workspace)])

    stored = reader.read_pooled(rows)

    assert stored is not None
    assert stored.shape == (len(rows), 2, reader.width)
    wanted = pool_tokens(torch.from_numpy(reader.read(rows))).numpy()
    assert np.allclose(stored, wanted, atol=2e-3)


def test_a_tier_changes_the_artifact_and_no_tier_leaves_the_old_fingerprint(
    workspace: Workspace,
) -> None:
    plain, pooled = features(workspace), features(workspace, pooled=True)

    assert plain.fingerprint != pooled.fingerprint
    assert "pooled" not in plain.config
    assert FeatureReader(plain).read_pooled(np.arange(2)) is None
    assert FeaturesConfig.build(plain.config).as_json() == plain.config


def test_clip_has_its_frame_cls_instead(workspace: Workspace) -> None:
    with pytest.raises(ConfigError, match="frame CLS"):
        features(workspace, "tiny-clip", pooled=True)


def test_seen_frames_read_the_tier_without_tokens_and_pool_where_there_is_none(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers = [FeatureReader(features(workspace, pooled=stored)) for stored in (True, False)]
    question = load_questions(workspace.finished("questions")[0])[0]
    span = clip_spans_of(workspace)[0]
    seen = [
        SeenFrames(reader, [question], [reader.clip(span.key, 4)], torch.device("cpu"))
        for reader in readers
    ]
    from_tokens = seen[1].pooled()

    def no_tokens(self: FeatureReader, rows: NDArray[Any]) -> NDArray[Any]:
        raise AssertionError("tokens were read")

    monkeypatch.setattr(FeatureReader, "read", no_tokens)
    assert torch.allclose(seen[0].pooled(), from_tokens, atol=2e-3)


def test_blind_frames_are_pooled_from_what_is_shown_in_their_place(workspace: Workspace) -> None:
    reader = FeatureReader(features(workspace, pooled=True))
    question = load_questions(workspace.finished("questions")[0])[0]
    clip = reader.clip(clip_spans_of(workspace)[0].key, 4)
    noise = np.random.default_rng(0).normal(size=(4, reader.tokens, reader.width))

    seen = SeenFrames(
        reader, [question], [clip], torch.device("cpu"),
        lambda question, place, values: noise.astype(np.float32),
    )  # fmt: skip

    assert torch.equal(seen.pooled()[0], pool_tokens(torch.from_numpy(noise)).float())


def test_only_the_question_prompter_reads_the_tier() -> None:
    assert VlapConfig(frames=8, keep=4, prompter="question", prompter_reads="pooled")
    with pytest.raises(ValueError, match="pooled"):
        VlapConfig(frames=8, keep=4, prompter="visual", prompter_reads="pooled")


def test_full_size_tier_is_less_than_one_percent_of_the_tokens() -> None:
    tokens = torch.zeros(1, 257, 1408, dtype=torch.float16)
    assert pool_tokens(tokens).numel() < 0.01 * tokens.numel()


@given(
    values=st.lists(
        st.floats(min_value=-1e4, max_value=1e4, allow_nan=False, width=32), min_size=4, max_size=4
    )
)
@settings(max_examples=60, deadline=None)
def test_float8_is_within_half_a_step_of_its_scale(values: list[float]) -> None:
    features = np.array(values, dtype=np.float32).reshape(1, 1, 4)

    stored, scale = encode_values(features, "float8")
    found = decode_values(stored, "float8", scale)

    largest = np.abs(features).max()
    # three bits of fraction, and below 2**-6 of the scale equal steps of 2**-9
    steps = np.maximum(np.abs(features) / 16, largest / 448 * 2.0**-10) * 1.001
    assert (np.abs(found - features) <= steps).all()


def clip_spans_of(workspace: Workspace) -> list[Any]:
    return list(clip_spans(workspace.finished("questions")[0]))
