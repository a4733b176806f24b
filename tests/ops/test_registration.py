"""What operators declare and register decides which implementation serves a call, and what is said where none does."""

from __future__ import annotations

import pytest
import torch

from xmae_fast import backend
from xmae_fast.backend import registry

IN_ORDER = (
    "random_masking",
    "token_gather",
    "conv_stem",
    "patch_embed",
    "lag_attention",
    "feed_forward",
    "waveform_loss",
)
NOT_IN_A_MODEL = ("random_masking",)
GPU = torch.device("cuda")


@pytest.fixture
def toy():
    """A declared operator "toy", whose kernels are said to be usable; forgotten afterwards."""
    backend.declare("toy", in_model=False)

    def register(impl, **options):
        backend.register("toy", impl, ("toy",), **options)
        registry.USABLE["toy", impl] = True

    yield register
    for table in (registry._OPERATORS, registry.LIMITS, registry.USABLE, registry.NOT_AUTOMATIC):
        for key in [key for key in table if key[0] == "toy"]:
            del table[key]
    del registry._IN_MODEL["toy"]


def test_the_order_is_that_of_a_forward():
    every, of_a_model = backend.OPS, backend.MODEL_OPS
    assert every == tuple(backend.available()) == IN_ORDER
    assert of_a_model == tuple(op for op in IN_ORDER if op not in NOT_IN_A_MODEL)


def test_an_undeclared_operator_is_refused():
    with pytest.raises(ValueError, match="register: expected a declared operator .*, got 'unheard'"):
        backend.register("unheard", "cpu", ("unheard",))


def test_a_limit_is_asked_with_the_call_and_the_next_one_takes_it(toy):
    def too_large(size):
        return f"it counts up to 10, got {size}" if size > 10 else ""

    toy("cuda", limit=too_large)
    toy("triton")
    assert backend.resolve("toy", "auto", GPU, None, (10,)) == "cuda"
    assert backend.resolve("toy", "auto", GPU, None, (11,)) == "triton"
    assert backend.resolve("toy", "cuda", GPU) == "cuda"
    with pytest.raises(backend.BackendError, match="but it counts up to 10, got 11; impl='triton' takes it"):
        backend.resolve("toy", "cuda", GPU, None, (11,))


def test_auto_warns_where_the_reference_takes_a_call_beyond_a_limit(toy):
    toy("triton", limit=lambda size: "it is too large" if size > 10 else "")
    assert backend.resolve("toy", "auto", GPU, None, (10,)) == "triton"
    with pytest.warns(UserWarning, match="toy runs in plain PyTorch: it is too large"):
        assert backend.resolve("toy", "auto", GPU, None, (11,)) == "reference"
    with pytest.raises(backend.BackendError, match="but it is too large; impl='reference' takes it"):
        backend.resolve("toy", "triton", GPU, None, (11,))


def test_auto_passes_over_what_is_not_automatic(toy):
    toy("cuda", automatic="it was not measured")
    assert backend.resolve("toy", "auto", GPU) == "reference"
    assert backend.resolve("toy", "cuda", GPU) == "cuda"
    assert "; cuda only if asked for: it was not measured" in backend.explain("toy", device="cuda")
    assert backend.NOT_AUTOMATIC["toy", "cuda"] == "it was not measured"
