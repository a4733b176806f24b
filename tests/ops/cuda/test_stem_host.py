"""The stem's inference kernel on the host, every thread of every CTA, against the oracle: the source nvcc compiles."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.ops.cuda.stem_host import HostStem
from xmae_fast.ops import gather_patches
from xmae_fast.ops.cases import Case, Maker
from xmae_fast.ops.conv_stem import reference
from xmae_fast.ops.conv_stem.cases import CASES, make_inputs
from xmae_fast.ops.conv_stem.cuda import limits
from xmae_fast.testing import check_op, hostile_layout, relative_error

EVALUATION = replace(CASES, differentiable=False)
DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def inputs_of(B: int, L: int, S: int = 32, dtype: torch.dtype = torch.float32, seed: int = 0):
    inputs = make_inputs({"B": B, "L": L, "S": S, "training": False}, Maker(seed, dtype))
    return inputs["x"], inputs["params"]


@DTYPES
@pytest.mark.parametrize(
    ("B", "L", "S"),
    [
        (1, 1, 4), (2, 2, 1), (1, 3, 32), (2, 5, 3), (1, 16, 8), (3, 17, 16), (2, 37, 33), (1, 40, 128), (1, 100, 40),
        (1, 200, 32), (1, 255, 32), (1, 256, 8), (1, 257, 32), (1, 511, 5), (1, 513, 32), (1, 1000, 32), (1, 1024, 64),
    ],
)  # fmt: skip
def test_matches_the_oracle(host: HostStem, B, L, S, dtype):
    """The error budget is that of every operator: twice the plain path's own error in this dtype, plus rounding."""
    case = Case(f"B{B}-L{L}-S{S}", {"B": B, "L": L, "S": S, "training": False})

    def run(inputs):
        return host(inputs["x"], inputs["params"], dtype).transpose(1, 2)

    check_op(EVALUATION, case, run, dtype=dtype, prepare=hostile_layout)


@pytest.mark.parametrize("L", [200, 999])
def test_float32_signals_and_weights_under_autocast(host, L):
    x, params = inputs_of(1, L)
    oracle_params = type(params)(*_double(params))
    want = reference.conv_stem(x.double(), oracle_params, False)
    with torch.autocast("cpu", torch.bfloat16):
        plain = reference.conv_stem(x, params, False)
    bound = 2 * relative_error(plain, want) + 4 * torch.finfo(torch.bfloat16).eps
    assert relative_error(host(x, params).transpose(1, 2), want) <= bound


def _double(value):
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value.clone()
    if hasattr(value, "_fields"):
        return type(value)(*(_double(item) for item in value))
    return tuple(_double(item) for item in value)


@pytest.mark.parametrize(("order", "late"), [(1, False), (2, True), (3, False), (0, True)])
def test_any_order_of_threads_and_arrival_of_copies_gives_the_same_bits(host, order, late):
    x, params = inputs_of(2, 150)
    assert torch.equal(host(x, params), host(x, params, order=order, late=late))


@pytest.mark.parametrize("L", [250, 1000])
def test_no_races(host, L):
    """`host` raises where two threads touch the same bytes between two barriers and one of them writes."""
    x, params = inputs_of(1, L, S=40)
    host(x, params, order=5, late=True)


@pytest.mark.parametrize("barrier", [2, 4, 5, 6, 7, 30, 60])
def test_a_missing_barrier_is_found(host, barrier):
    x, params = inputs_of(1, 40)
    with pytest.raises(AssertionError, match=r"races, the first: thread|deadlock"):
        host(x, params, without=barrier)


@pytest.mark.parametrize("variant", [512, 1024])
def test_instantiations_agree(host, variant):
    x, params = inputs_of(1, 201)
    assert torch.equal(host(x, params), host(x, params, variant=variant))


@pytest.mark.parametrize(("blocks", "keep1_in_global"), [(1, True), (2, False), (3, True), (5, False)])
def test_samples_in_turn_and_a_level_in_global_memory(host, blocks, keep1_in_global):
    x, params = inputs_of(5, 23)
    each = torch.cat([host(x[b : b + 1], params) for b in range(5)])
    assert torch.equal(host(x, params, blocks=blocks, keep1_in_global=keep1_in_global), each)


@pytest.mark.parametrize(("N", "kept", "patch_len"), [(25, 5, 40), (25, 25, 8), (7, 3, 9), (4, 1, 1)])
def test_visible_patches(host, N, kept, patch_len):
    make = Maker(3)
    x, params = inputs_of(3, N * patch_len, S=8)
    ids_keep, _ = make.ids(3, N, kept)
    ids_keep = ids_keep.flip(1)  # the order of ids_keep counts
    want = host(gather_patches(x, ids_keep, patch_len, impl="reference"), params)
    assert torch.equal(host(x, params, ids_keep=ids_keep, patch_len=patch_len), want)


@pytest.mark.parametrize("tanh", [1, -1, 2])
def test_approximate_tanh_stays_within_the_budget(host, tanh):
    """tanh.approx.f32 is documented to be off by at most 2^-11 of the value; so much, up, down or both, is added."""
    x, params = inputs_of(1, 300)
    want = reference.conv_stem(x.double(), type(params)(*_double(params)), False)
    with torch.autocast("cpu", torch.bfloat16):
        plain = relative_error(reference.conv_stem(x, params, False), want)
    exact, off = (relative_error(host(x, params, tanh=mode).transpose(1, 2), want) for mode in (0, tanh))
    assert off <= 2 * plain + 4 * torch.finfo(torch.bfloat16).eps
    assert off <= 1.25 * exact


def test_silu_by_approximate_tanh():
    """silu(y) = h + h tanh(h), h = y / 2: its error is at most |h tanh(h)| 2^-11, which counts against bfloat16's own
    rounding of the result only where silu nearly vanishes."""
    y = torch.linspace(-20, 20, 40_001, dtype=torch.float64)
    h = y / 2
    error = (h * torch.tanh(h)).abs() * 2**-11
    assert error.max() <= 10 * 2**-11
    assert (error[y > 0] <= (y * torch.sigmoid(y))[y > 0] * 2**-11).all()
    assert error[(y > -4) & (y < 0)].max() <= 2**-10


def test_shared_memory_is_as_the_python_side_says(host):
    for most, need in limits.SHARED_BYTES.items():
        assert host.shared_bytes(most, keep1_in_global=True) == need
    assert host.shared_bytes(1024, keep1_in_global=False) <= 227 * 1024  # sm_90
    assert host.shared_bytes(1024, keep1_in_global=True) <= 163 * 1024  # sm_80
    assert host.shared_bytes(512, keep1_in_global=True) <= 99 * 1024  # sm_86, sm_89
