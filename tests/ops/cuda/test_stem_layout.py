"""Rounding, fragments, packed weights and tables of the stem's inference kernel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.ops.cuda import predict
from tests.ops.cuda.stem_host import ROOT
from xmae_fast.ops.cases import Maker
from xmae_fast.ops.conv_stem import reference
from xmae_fast.ops.conv_stem.cases import make_inputs

LANES = np.arange(32)
GROUP, THREAD = LANES >> 2, LANES % 4


def a_place(i: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of element a_i of every lane, as the PTX ISA has it for mma.m16n8k16 and 16-bit types."""
    row = GROUP if i < 2 or 4 <= i < 6 else GROUP + 8
    return row, THREAD * 2 + (i & 1) + (8 if i >= 4 else 0)


def b_place(i: int) -> tuple[np.ndarray, np.ndarray]:
    return THREAD * 2 + (i & 1) + (8 if i >= 2 else 0), GROUP


def c_place(i: int) -> tuple[np.ndarray, np.ndarray]:
    return GROUP if i < 2 else GROUP + 8, THREAD * 2 + (i & 1)


def pairs(matrix: np.ndarray, place, count: int) -> np.ndarray:
    """Registers [32, count / 2] of two bf16 each."""
    bits = torch.from_numpy(matrix).bfloat16().view(torch.int16).numpy().view(np.uint16).astype(np.uint32)
    elements = np.stack([bits[place(i)] for i in range(count)], axis=1)
    return elements[:, 0::2] | elements[:, 1::2] << 16


def test_the_hosts_mma_has_the_documented_fragments(host):
    """So what the kernel's registers mean in the host runs is what they mean on a GPU."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(-8, 8, (16, 16)).astype(np.float32), rng.integers(-8, 8, (16, 8)).astype(np.float32)
    registers = host.warp_mma(pairs(a, a_place, 8), pairs(b, b_place, 4))
    c = np.zeros((16, 8), np.float32)
    for i in range(4):
        c[c_place(i)] = registers[:, i]
    np.testing.assert_array_equal(c, a @ b)


def test_rounding_is_torchs(host):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 200_000, dtype=np.uint64).astype(np.uint32)
    special = [0.0, -0.0, 1.0, 65504.0, 65519.99, 65520.0, 6e-8, 2.98e-8, 6.1e-5, np.inf, -np.inf, np.nan]
    middle = rng.standard_normal(200_000) * np.exp2(rng.integers(-26, 17, 200_000))
    x = np.concatenate([bits.view(np.float32), np.float32(special), np.float32(middle)])
    for half, dtype in ((False, torch.bfloat16), (True, torch.float16)):
        got, back = host.rounded(x, half)
        want = torch.from_numpy(x).to(dtype)
        number = ~np.isnan(x)
        np.testing.assert_array_equal(got[number], want.view(torch.int16).numpy().view(np.uint16)[number])
        np.testing.assert_array_equal(back, want.float().numpy())


def test_no_piece_of_the_stream_crosses_a_chunk(host):
    for S in (1, 32, 33, 128):
        records = host.records(S)
        ends = records[:, 4] + records[:, 5]
        assert (records[:, 4] // 16384 == (ends - 1) // 16384).all()
        assert (records[1:, 4] >= ends[:-1]).all()


def test_tables_of_the_page_are_up_to_date(host, full_banks):
    page = (ROOT / "xmae_fast" / "ops" / "conv_stem" / "cuda" / "README.md").read_text()
    again = "; write them again with `python -m tests.ops.cuda.predict`"
    assert predict.layer_table(host, predict.run(host, predict.L)) in page, "the layers differ" + again
    assert predict.bank_table(full_banks) in page, "the bank conflicts differ" + again


def test_only_stride_two_has_bank_conflicts(full_banks):
    conflicts = [entry for entry in full_banks if entry.wavefronts > entry.ideal]
    assert {(entry.layer, entry.kind, entry.wavefronts / entry.ideal) for entry in conflicts} == {
        (6, "ldmatrix", 2.0), (13, "ldmatrix", 2.0),
    }  # fmt: skip


@pytest.mark.parametrize("place", [0, 1, 31, 62, 63])
def test_one_impulse(host, place):
    """Taps in the right order, to the last row: a mirrored kernel would pass a check of norms alone only by luck."""
    params = make_inputs({"B": 1, "L": 64, "S": 32, "training": False}, Maker(5))["params"]
    x = torch.zeros(1, 1, 64)
    x[0, 0, place] = 8.0
    torch.testing.assert_close(
        host(x, params).transpose(1, 2).float(), reference.conv_stem(x, params, False), rtol=0.05, atol=0.05
    )
