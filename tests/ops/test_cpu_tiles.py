"""Heights of the register tiles: which one is chosen, and that no result depends on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.ops.instruction_sets import HEIGHTS, on
from tests.ops.test_cpu_vec import COMPILER, library
from xmae_fast import ModelCfg, masked_mse, random_masking, xMAE
from xmae_fast.backend import MODEL_OPS, cpu_bfloat16, cpu_kernels, use_cpu_bfloat16, use_cpu_kernels
from xmae_fast.ops import feed_forward
from xmae_fast.ops.cases import Maker, all_cases
from xmae_fast.testing import named_tensors

# Vendor, EAX of cpuid's leaf 1, EDX of its leaf 7, and whether tiles of 13 rows are chosen.
AMX, FP16 = 1 << 24 | 1 << 22, 1 << 23
PROCESSORS = {
    "Sapphire Rapids": ("GenuineIntel", 0x000806F8, AMX | FP16, True),
    "Sapphire Rapids whose features a hypervisor hides": ("GenuineIntel", 0x000806F8, 0, True),
    "Emerald Rapids whose features a hypervisor hides": ("GenuineIntel", 0x000C06F2, 0, True),
    "Granite Rapids whose features a hypervisor hides": ("GenuineIntel", 0x000A06D1, 0, True),
    "Granite Rapids D whose features a hypervisor hides": ("GenuineIntel", 0x000A06E1, 0, True),
    "a hypervisor's model with AMX": ("GenuineIntel", 0x000A0671, AMX, True),
    "a hypervisor's model with AVX512-FP16": ("GenuineIntel", 0x000A0671, FP16, True),
    "Rocket Lake": ("GenuineIntel", 0x000A0671, 0, False),
    "Ice Lake": ("GenuineIntel", 0x000606A6, 0, False),
    "Skylake-X": ("GenuineIntel", 0x00050654, 0, False),
    "family 15 with Sapphire Rapids' model": ("GenuineIntel", 0x00080FF8, 0, False),
    "Zen 4": ("AuthenticAMD", 0x00A10F11, 0, False),
    "Zen 5": ("AuthenticAMD", 0x00B00F21, 0, False),
    "another vendor with AVX512-FP16": ("AuthenticAMD", 0x00B00F21, FP16, False),
}


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler here")
@pytest.mark.parametrize("name", PROCESSORS)
def test_choice_by_processor(name):
    vendor, signature, features, tall = PROCESSORS[name]
    assert library("baseline").probe_golden_cove(vendor.encode(), signature, features) & 1 == tall


def test_choice_on_this_processor():
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    if "GenuineIntel" not in text and "AuthenticAMD" not in text:
        pytest.skip("needs what Linux says about an x86 processor")
    flags = set(next(line for line in text.splitlines() if line.startswith("flags")).split())
    if not {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
        pytest.skip("this processor has no AVX-512")
    with use_cpu_kernels("auto"):
        name = cpu_kernels()
    if name == "amx":
        assert {"amx_tile", "amx_bf16"} <= flags
        with use_cpu_bfloat16("auto"):
            assert cpu_bfloat16() == "amx"  # the operating system permits both or neither
    elif "GenuineIntel" in text and flags & {"amx_tile", "avx512_fp16"}:
        assert name == "avx512_rows13"
    else:
        assert name in ("avx512", "avx512_rows13")
        assert "AuthenticAMD" not in text or name == "avx512"


def everything(B: int, stem_ch: int) -> list[torch.Tensor]:
    """Embedding, reconstruction, loss, gradients and buffers of a small model."""
    torch.manual_seed(0)
    cfg = ModelCfg(seq_len=200, patch_len=20, d_model=48, nhead=4, proj_dim=16, stem_ch=stem_ch, dropout=0.1)
    model = xMAE(cfg, impl="cpu")
    ppg, ecg = torch.randn(2, B, 200)
    mask = random_masking(B, 10, 0.8, generator=torch.Generator().manual_seed(1))
    ids = {"ids_keep_ecg": mask.ids_keep, "ids_restore_ecg": mask.ids_restore}
    model.eval()
    with torch.no_grad():
        inference = [model.embed(ppg), model(ppg, ecg, **ids)["ecg_reconstructed"]]
    model.train()
    torch.manual_seed(5)
    out = model(ppg, ecg, **ids, return_embeddings=False)
    loss = masked_mse(out["ecg_reconstructed"], ecg, out["seq_mask_used_ecg"], impl="cpu")
    loss.backward()
    gradients = [x.grad for x in model.parameters() if x.grad is not None]
    return [*inference, loss.detach(), *gradients, *(x.clone() for x in model.buffers())]


# 8 and 20 channels end within a vector, 32 fill a panel.
@pytest.mark.parametrize(("B", "stem_ch"), [(1, 8), (1, 32), (2, 20), (5, 20), (20, 8), (9, 32)])
def test_heights_of_tiles_change_no_bit(B, stem_ch, need_impl):
    for op in MODEL_OPS:
        need_impl(op, "cpu")
    results = []
    for name in HEIGHTS:
        with on(name):
            assert cpu_kernels() == name
            results.append(everything(B, stem_ch))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("rows", [1, 11, 12, 13, 14, 15, 25, 26, 27, 28, 39, 40, 169, 182])
def test_heights_of_tiles_change_no_bit_of_a_product(rows, need_impl):
    """Around whole numbers of tiles of each height: products of the feed-forward and the gradients of its weights."""
    need_impl("feed_forward", "cpu")
    results = []
    for name in HEIGHTS:
        inputs = all_cases()["feed_forward"].make_inputs({"B": 1, "N": rows, "D": 40, "F": rows + 60}, Maker(0))
        tensors = [x.requires_grad_() for _, x in named_tensors(inputs) if x.is_floating_point()]
        with on(name):
            out = feed_forward(**inputs, impl="cpu")
            results.append([out.detach(), *torch.autograd.grad(out.square().sum(), tensors)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
