"""The bfloat16 kernels of the CPU for inference: every instruction set against float64 and stock bfloat16."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.ops.bfloat16_cases import CASES, OPS
from tests.ops.instruction_sets import BF16_SETS, on_bf16
from xmae_fast import backend
from xmae_fast.ops.cases import Case, Maker, cases
from xmae_fast.ops.conv_stem.params import flatten
from xmae_fast.ops.lag_attention.params import kernel_weights
from xmae_fast.testing import check_bfloat16, hostile_layout, relative_error
from xmae_fast.testing.numerics import _map_tensors

# Widths that fill no tile, short signals, and rows that fill none, one, and one and a bit.
ODD = {
    "conv_stem": cases(
        *({"B": 1, "L": L, "S": 5, "training": False, "widths": (33, 20, 50)} for L in (1, 2, 3, 4, 6, 16, 17, 33)),
        {"B": 3, "L": 70, "S": 33, "training": False, "widths": (32, 64, 128)},
    ),
    "patch_embed": cases(
        {"B": 1, "S": 32, "N": 5, "P": 2, "D": 40},
        {"B": 1, "S": 32, "N": 17, "P": 1, "D": 33},
        {"B": 5, "S": 3, "N": 7, "P": 11, "D": 15},
    ),
    "feed_forward": cases({"B": 1, "N": 17, "D": 33, "F": 50}, {"B": 3, "N": 31, "D": 48, "F": 17}),
    "lag_attention": cases(
        {"B": 1, "Nq": 33, "Nk": "self", "D": 40, "H": 5, "bias": "none"},
        {"B": 3, "Nq": 17, "Nk": 15, "D": 36, "H": 4, "bias": "table"},
    ),
}
INFERENCE = [
    pytest.param(op, case, id=f"{op}-{case.name}")
    for op in OPS
    for case in (*CASES[op].tests, *ODD[op])
    if not case.sizes.get("training")
]
OF_EACH = [pytest.param(op, ODD[op][-1], id=op) for op in OPS]


@pytest.fixture(autouse=True)
def _need_kernels(need_impl):
    for op in OPS:
        need_impl(op, "cpu")


@pytest.fixture(params=BF16_SETS)
def bf16(request):
    """Runs the test once on the bfloat16 kernels of each instruction set; skipped where this processor lacks it."""
    with on_bf16(request.param):
        yield request.param


def inputs_of(op: str, case: Case, seed: int = 0) -> dict[str, Any]:
    return CASES[op].make_inputs(case.sizes, Maker(seed))


@torch.no_grad()
def call(op: str, inputs: dict[str, Any]) -> torch.Tensor:
    """The result of the kernels for the CPU under autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        return CASES[op].call(inputs, "cpu")


@pytest.mark.parametrize(("op", "case"), INFERENCE)
def test_autocast_matches_the_oracle(op, case, bf16):
    for seed in (0, 2):
        check_bfloat16(CASES[op], case, lambda inputs: CASES[op].call(inputs, "cpu"), seed=seed)


@pytest.mark.parametrize(("op", "case"), INFERENCE)
def test_bfloat16_tensors_match_the_oracle(op, case, bf16):
    check_bfloat16(CASES[op], case, lambda inputs: CASES[op].call(inputs, "cpu"), dtype=torch.bfloat16)


@pytest.mark.parametrize(("op", "case"), INFERENCE)
def test_hostile_layouts_and_poisoned_memory(op, case, bf16):
    torch.use_deterministic_algorithms(True)  # fills uninitialised memory with NaN
    try:
        check_bfloat16(CASES[op], case, lambda x: CASES[op].call(x, "cpu"), seed=2, prepare=hostile_layout)
        for layout in (channels_last, at_an_odd_address):
            want = call(op, inputs_of(op, case, 2))
            got = call(op, _map_tensors(layout, inputs_of(op, case, 2)))
            assert torch.equal(got, want), layout.__name__
    finally:
        torch.use_deterministic_algorithms(False)


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """The same values with the second dimension innermost."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if x.dim() > 2 else x


def at_an_odd_address(x: torch.Tensor) -> torch.Tensor:
    """The same values, dense, from the second number of a storage on."""
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape) if x.is_floating_point() else x


@pytest.mark.parametrize("op", OPS)
def test_expanded_inputs(op, bf16):
    name = "features" if op == "patch_embed" else "x"
    inputs = inputs_of(op, ODD[op][-1])
    one = inputs[name][:1].expand_as(inputs[name])
    assert torch.equal(call(op, inputs | {name: one}), call(op, inputs | {name: one.clone()}))


@pytest.mark.parametrize(("op", "case"), INFERENCE)
def test_instruction_sets_agree(op, case):
    """Sums in another order round otherwise now and then, so results differ by at most what each may be off by."""
    with on_bf16("plain"):
        want = call(op, inputs_of(op, case))
        bound = check_bfloat16(CASES[op], case, lambda inputs: CASES[op].call(inputs, "cpu")).bound
    for name in BF16_SETS[:-1]:
        with on_bf16(name):
            assert relative_error(call(op, inputs_of(op, case)), want) <= bound, name


@pytest.mark.parametrize(("op", "sizes"), [
    ("conv_stem", {"B": 1, "L": 257, "S": 32, "training": False}),
    ("conv_stem", {"B": 5, "L": 130, "S": 7, "training": False, "widths": (33, 20, 50)}),
    ("patch_embed", {"B": 1, "S": 32, "N": 25, "P": 3, "D": 80}),
    ("patch_embed", {"B": 12, "S": 32, "N": 25, "P": 1, "D": 48}),
    ("feed_forward", {"B": 1, "N": 25, "D": 64, "F": 160}),
    ("feed_forward", {"B": 9, "N": 25, "D": 40, "F": 72}),
    ("lag_attention", {"B": 1, "Nq": 25, "Nk": "self", "D": 64, "H": 4, "bias": "table"}),
    ("lag_attention", {"B": 7, "Nq": 25, "Nk": 15, "D": 48, "H": 4, "bias": "table"}),
])  # fmt: skip
def test_threads_and_batches_change_no_bit(op, sizes, bf16):
    (case,) = cases(sizes)
    inputs = inputs_of(op, case)
    torch.set_num_threads(1)
    want = call(op, inputs)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(call(op, inputs), want), threads
        if sizes["B"] > 1 and op != "lag_attention":
            name = "features" if op == "patch_embed" else "x"
            assert torch.equal(call(op, inputs | {name: inputs[name][1:2]}), want[1:2]), threads


@pytest.mark.parametrize(("op", "case"), OF_EACH)
def test_two_threads_at_once(op, case, bf16):
    inputs = inputs_of(op, case)
    want = call(op, inputs)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: call(op, inputs), range(20)))
    assert all(torch.equal(x, want) for x in found)


def test_tiles_of_other_libraries_are_left_alone(bf16):
    """oneDNN configures the same registers for its own products on the same thread."""
    torch.set_num_threads(1)
    a, b = torch.randn(70, 96).bfloat16(), torch.randn(96, 80).bfloat16()
    c, d = torch.randn(7, 33).bfloat16(), torch.randn(33, 5).bfloat16()
    before = torch.mm(a, b), torch.mm(c, d)
    for op in OPS:
        inputs = inputs_of(op, ODD[op][-1])
        want = call(op, inputs)
        assert torch.equal(torch.mm(a, b), before[0])
        assert torch.equal(call(op, inputs), want)
        assert torch.equal(torch.mm(c, d), before[1])
        assert torch.equal(torch.mm(a, b), before[0])
        assert torch.equal(call(op, inputs), want)


@pytest.mark.parametrize(("op", "case"), OF_EACH)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_number_stays_within_its_sample(op, case, bad, bf16):
    name = "features" if op == "patch_embed" else "x"
    inputs = inputs_of(op, case)
    want = call(op, inputs)
    broken = inputs[name].clone()
    broken[1].view(-1)[2] = bad
    got = call(op, inputs | {name: broken})
    others = [i for i in range(len(want)) if i != 1]
    assert torch.equal(got[others], want[others])
    assert not got[1].isfinite().all()
    if op == "feed_forward":  # where rows are tokens, and only the first one is touched
        assert torch.equal(got[1, 1:], want[1, 1:])


@pytest.mark.parametrize("scale", [1e10, 1e20, 1e30])
def test_huge_numbers_pass_the_stem(scale, bf16):
    stem = CASES["conv_stem"]

    def scaled(sizes, make):
        inputs = stem.make_inputs(sizes, make)
        return inputs | {"x": inputs["x"] * scale}

    check_bfloat16(replace(stem, make_inputs=scaled), stem.tests[0], lambda inputs: stem.call(inputs, "cpu"))


def test_opcheck(bf16):
    kernels = torch.ops.xmae_fast
    stem = inputs_of("conv_stem", CASES["conv_stem"].tests[1])
    torch.library.opcheck(kernels.conv_stem_eval_bf16.default, (stem["x"], flatten(stem["params"])))
    patch = inputs_of("patch_embed", CASES["patch_embed"].tests[1])
    rows = patch["features"].transpose(1, 2)
    for features in (rows, rows.bfloat16()):
        torch.library.opcheck(
            kernels.patch_embed_bf16.default, (features, patch["weight"], patch["bias"], patch["pos"])
        )
    feed = inputs_of("feed_forward", CASES["feed_forward"].tests[1])
    torch.library.opcheck(kernels.feed_forward_eval_bf16.default, (feed["x"], list(feed["params"]), None, 0.0))
    attend = inputs_of("lag_attention", CASES["lag_attention"].tests[2])
    arguments = (
        attend["x"], attend["key_value"], kernel_weights(attend["params"], True), 2, attend["bias_table"],
        torch.arange(25)[None], attend["key_pos"], None, 0.0,
    )  # fmt: skip
    torch.library.opcheck(kernels.lag_attention_eval_bf16.default, arguments)


@pytest.mark.parametrize("op", OPS)
def test_float32_serves_where_there_are_no_bfloat16_kernels(op):
    """float32 kernels under autocast, bit for bit; plain PyTorch for bfloat16 tensors, and an error by name."""
    inputs = inputs_of(op, ODD[op][-1])
    with torch.no_grad():
        want = CASES[op].call(inputs, "cpu")
    with backend.use_cpu_bfloat16("none"):
        assert backend.cpu_bfloat16() == ""
        got = call(op, inputs)
        assert got.dtype == torch.float32
        assert torch.equal(got, want)
        rounded = _map_tensors(lambda x: x.bfloat16() if x.is_floating_point() else x, inputs)
        with torch.no_grad():
            assert torch.equal(CASES[op].call(rounded, "auto"), CASES[op].call(rounded, "reference"))
            with pytest.raises(backend.BackendError, match="computes in torch.float32"):
                CASES[op].call(rounded, "cpu")


# A process whose features end where memory that nobody may read begins; run with more threads than rows divide into.
GUARDED = """
import ctypes, mmap, sys, torch
from xmae_fast import backend, ops
rows, S, D = int(sys.argv[1]), 32, 512
size = rows * S * 2
pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
memory = mmap.mmap(-1, pages + mmap.PAGESIZE)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.mprotect(ctypes.c_void_p(address + pages), mmap.PAGESIZE, 0) == 0
features = torch.frombuffer(memory, dtype=torch.bfloat16, count=rows * S, offset=pages - size).view(1, rows, S)
features.copy_(torch.randn(rows, S))
weight, bias, pos = torch.randn(D, S, 1), torch.randn(D), torch.randn(1, rows, D)
torch.set_num_threads(int(sys.argv[2]))
with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), backend.use_cpu_bfloat16(sys.argv[3]):
    out = ops.patch_embed(features.transpose(1, 2), weight, bias, pos, impl="cpu")
    want = ops.patch_embed(features.clone().transpose(1, 2), weight, bias, pos, impl="cpu")
assert torch.equal(out, want)
"""


@pytest.mark.parametrize(("rows", "threads"), [(16, 1), (17, 2), (33, 2), (3596, 64)])
def test_nothing_beyond_the_last_row_is_read(rows, threads, bf16):
    code = [sys.executable, "-c", GUARDED, str(rows), str(threads), bf16]
    done = subprocess.run(code, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr or f"ended by signal {-done.returncode}"
