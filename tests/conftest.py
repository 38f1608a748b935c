"""What every test needs: the shared data, if it is beside the checkout, and a fixed RNG."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


def shared_folder() -> Path | None:
    """The folder of real annotations, videos and golden tensors, where there is one."""
    named = os.environ.get("VQA_SHARED")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared folder; tests that use it are skipped where it is absent."""
    folder = shared_folder()
    if folder is None:
        pytest.skip("no shared data beside the checkout (or in VQA_SHARED)")
    return folder


@pytest.fixture(autouse=True)
def leave_the_random_state_alone() -> Iterator[None]:
    """Tests that draw random numbers do not change what later tests draw."""
    import random

    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
