"""The recorded weights' names and sizes, there and back."""

from __future__ import annotations

from typing import Any

import torch

from stages.models.reference_names import reference_from_ours, sevila_from_reference


def test_names_and_values_go_there_and_back(sevila_golden: Any) -> None:
    state = sevila_golden.tensors("weights")
    ours, unknown = sevila_from_reference(state)
    assert unknown == []
    back = reference_from_ours(ours)
    dropped = {name for name in state if name.endswith("position_ids")}
    assert set(back) == set(state) - dropped
    assert all(torch.equal(back[name], state[name]) for name in back)


def test_every_listed_weight_is_there_and_fills_one_of_ours(sevila_golden: Any) -> None:
    state, listed = sevila_golden.tensors("weights"), sevila_golden.config["weights"]
    assert {name: list(tensor.shape) for name, tensor in state.items()} == {
        name: shape for name, (_, shape) in listed.items()
    }
    model, ours = sevila_golden.sevila(), sevila_golden.weights
    own = {name.removeprefix("backbone."): t.shape for name, t in model.state_dict().items()}
    given = {n: t.shape for n, t in ours.items() if not n.startswith("vision_model.")}
    assert own == given


def test_the_key_third_of_the_towers_bias_is_zero(sevila_golden: Any) -> None:
    biases = [t for n, t in sevila_golden.weights.items() if n.endswith("self_attn.qkv.bias")]
    assert biases
    for bias in biases:
        q, k, v = bias.chunk(3)
        assert not k.any()
        assert q.any()
        assert v.any()
