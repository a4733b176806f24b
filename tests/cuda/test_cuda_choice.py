"""impl="cuda": when it may be chosen, what is said when it may not."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from xmae_fast import available, backend, explain, ops
from xmae_fast.ops.cases import Maker
from xmae_fast.ops.conv_stem import schema_cuda
from xmae_fast.ops.conv_stem.cases import make_inputs
from xmae_fast.ops.conv_stem.schema import flatten


def inputs_of(L: int = 40, S: int = 32, widths=(32, 64, 128)):
    return make_inputs({"B": 2, "L": L, "S": S, "training": False, "widths": widths}, Maker(0))


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_a_torch_without_cuda_says_so():
    usable, reason = available()["conv_stem"]["cuda"]
    assert not usable
    assert reason == f"this torch ({torch.__version__}) was built without CUDA"
    with pytest.raises(backend.BackendError, match="was asked for conv_stem, but this torch .* built without CUDA"):
        ops.conv_stem(**inputs_of(), impl="cuda")
    assert "cuda not: this torch" in explain("conv_stem")


def test_auto_passes_it_over_and_says_why(monkeypatch):
    for impl in ("triton", "cuda"):
        monkeypatch.setitem(backend._USABLE, ("conv_stem", impl), True)
    device = torch.device("cuda")
    assert backend.resolve("conv_stem", "auto", device, torch.bfloat16) == "triton"
    assert backend.resolve("conv_stem", "cuda", device, torch.bfloat16) == "cuda"
    monkeypatch.delitem(backend.NOT_AUTOMATIC, ("conv_stem", "cuda"))
    assert backend.resolve("conv_stem", "auto", device, torch.bfloat16) == "cuda"


def test_explain_names_what_auto_passes_over(monkeypatch):
    monkeypatch.setitem(backend._USABLE, ("conv_stem", "cuda"), True)
    text = explain("conv_stem", device="cuda")
    assert "cuda only if asked for: " + backend.NOT_AUTOMATIC["conv_stem", "cuda"] in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training": True}, "running statistics only"),
        ({"gradients": True}, "has no backward"),
        ({"compute": torch.float32}, "(by autocast, or a model of that dtype), not in torch.float32"),
        ({"L": 1025}, "at most 1,024 samples, not 1,025"),
        ({"L": 1000, "shared_bytes": 101_376}, "need 165,376 bytes of shared memory and this GPU has 101,376"),
        ({"L": 512, "shared_bytes": 101_376}, ""),
        ({"L": 1024, "shared_bytes": 166_912}, ""),
        ({}, ""),
    ],
)
def test_limits(changes, said):
    call = {"L": 200, "compute": torch.bfloat16, "training": False, "gradients": False, "shared_bytes": None} | changes
    why = schema_cuda.limit(inputs_of()["params"], **call)
    assert said in why
    assert bool(why) == bool(said)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"widths": (13, 22, 31)}, "made for widths (32, 64, 128), not (13, 22, 31)"),
        ({"S": 129}, "at most 128 channels, not 129"),
    ],
)
def test_limits_of_the_weights(inputs, said):
    params = inputs_of(**inputs)["params"]
    assert said in schema_cuda.limit(params, 40, torch.bfloat16, training=False, gradients=False)


def test_fake():
    real = flatten(inputs_of(S=16)["params"])
    with FakeTensorMode() as mode:
        x, weights = torch.empty(3, 1, 200), [mode.from_tensor(weight) for weight in real]
        op = torch.ops.xmae_fast.conv_stem_eval_cuda
        assert op(x, weights, None, 1, torch.bfloat16).shape == (3, 200, 16)
        ids_keep = torch.zeros(3, 2, dtype=torch.int64)
        features = op(x, weights, ids_keep, 40, torch.float16)
        assert features.shape == (3, 80, 16)
        assert features.dtype == torch.float16
