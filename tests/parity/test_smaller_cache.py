"""How far golden outputs move when the features they come from were stored in fewer bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stages.artifacts.features import StoredDtype, decode_values, encode_values


def stored(features: Tensor, dtype: StoredDtype) -> Tensor:
    """Features [B, T, N, C] as they come back from a cache."""
    flat = features.flatten(0, 1).numpy()
    values, scale = encode_values(flat, dtype)
    return torch.from_numpy(decode_values(values, dtype, scale)).float().reshape(features.shape)


@pytest.mark.parametrize(
    ("dtype", "limit", "frames"),
    [("float16", 1e-3, 1.0), ("bfloat16", 0.01, 1.0), ("int8", 0.03, 5 / 6), ("float8", 0.1, 1.0)],
)
def test_golden_frames_and_letters_from_stored_features(
    vlap_golden: Any, dtype: StoredDtype, limit: float, frames: float
) -> None:
    """`limit` is in standard deviations of the golden letter logits, on the golden frames."""
    data = vlap_golden.tensors("case07_inference_zero_noise")
    features = vlap_golden.tensors("inputs_main")["vit_tokens"]
    student, text = vlap_golden.student().eval(), vlap_golden.text(data, "eval")
    letters = data["letter_logits"].shape[1]
    exact, found = (student.select(item, text) for item in (features, stored(features, dtype)))

    answer = student.answer(
        stored(features, dtype), text, mode="letter", num_options=[letters] * len(features),
        selection=exact,
    )  # fmt: skip

    moved = (answer.scores - data["letter_logits"]).abs().max() / data["letter_logits"].std()
    assert moved <= limit, float(moved)
    assert torch.equal(answer.prediction, data["predicted_index"])
    assert (found.indices == data["selected_index"]).double().mean() >= frames
