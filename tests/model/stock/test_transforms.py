"""Transforms, traces and exports of a model do with the library's what they do with the control."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

from tests.model.stock.pair import IMPLEMENTATIONS, batch, build, hint, twins

ARGUMENTS = ("ppg", "ecg", "ids_keep_ecg", "ids_restore_ecg")


def reconstruct(model: nn.Module, ppg: Tensor, ecg: Tensor, keep: Tensor, restore: Tensor) -> Tensor:
    return model(ppg, ecg, ids_keep_ecg=keep, ids_restore_ecg=restore)["ecg_reconstructed"]


def transforms(model: nn.Module) -> dict[str, object]:
    """torch.func's transforms of an evaluation, each as a function without arguments."""
    dtype = next(model.parameters()).dtype
    ppg, ecg, keep, restore = (batch(dtype)[name] for name in ARGUMENTS)
    weights = {key: p.detach() for key, p in model.named_parameters()}

    def loss(weights: dict[str, Tensor]) -> Tensor:
        results = functional_call(model, weights, (ppg, ecg), {"ids_keep_ecg": keep, "ids_restore_ecg": restore})
        return results["ecg_reconstructed"].square().mean()

    def of_row(ppg, ecg, keep, restore):
        return reconstruct(model, ppg[None], ecg[None], keep[None], restore[None])[0]

    def loss_of_row(weights, ppg, ecg, keep, restore):
        ids = {"ids_keep_ecg": keep[None], "ids_restore_ecg": restore[None]}
        return functional_call(model, weights, (ppg[None], ecg[None]), ids)["ecg_reconstructed"].square().mean()

    return {
        "grad": lambda: grad(loss)(weights),
        "vmap": lambda: vmap(of_row)(ppg, ecg, keep, restore),
        "jacrev": lambda: jacrev(lambda x: model(x)["ppg_embedding"][:, :2])(ppg),
        "gradients of each sample": lambda: vmap(grad(loss_of_row), in_dims=(None, 0, 0, 0, 0))(
            weights, ppg, ecg, keep, restore
        ),
    }


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", ["grad", "vmap", "jacrev", "gradients of each sample"])
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_transforms(which, name):
    """They work, or the error names impl="reference", with which they do."""
    model, control = twins(which)
    want = transforms(control)[name]()
    try:
        got = transforms(model)[name]()
    except Exception as error:
        assert which == "auto", "the plain modules serve every transform"
        hint(error, 'impl="reference"')
        return
    flat = [
        torch.cat([x.double().flatten() for x in (r.values() if isinstance(r, dict) else [r])]) for r in (got, want)
    ]
    assert (flat[0] - flat[1]).norm() < 1e-3 * flat[1].norm()


class Tuples(nn.Module):
    """Positional arguments and a tuple of results, which tracers want."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ppg: Tensor, ecg: Tensor, keep: Tensor, restore: Tensor) -> tuple[Tensor, ...]:
        results = self.model(ppg, ecg, ids_keep_ecg=keep, ids_restore_ecg=restore)
        return results["ppg_embedding"], results["ecg_reconstructed"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_jit_trace(which, gradients):
    model = build(which)
    inputs = tuple(batch()[name] for name in ARGUMENTS)
    others = tuple(batch(seed=8)[name] for name in ARGUMENTS)
    with torch.set_grad_enabled(gradients):
        try:
            traced = torch.jit.trace(Tuples(model), inputs, check_trace=False)
        except Exception as error:
            assert which != "stock"
            hint(error, "xmae-fast export")
            return
        got, want = traced(*others), Tuples(build("stock"))(*others)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_onnx_export(which, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")

    class Embedding(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, ppg: Tensor) -> Tensor:
            return self.model(ppg)["ppg_embedding"]

    path, ppg = tmp_path / "model.onnx", batch()["ppg"]
    try:
        torch.onnx.export(Embedding(build(which)), (ppg,), path, verbose=False, dynamo=False)
    except Exception as error:
        assert which != "stock"
        hint(error, "xmae-fast export")
        return
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    got = session.run(None, {session.get_inputs()[0].name: ppg.numpy()})[0]
    with torch.no_grad():
        want = build("stock")(ppg)["ppg_embedding"]
    torch.testing.assert_close(torch.from_numpy(got), want, rtol=1e-3, atol=1e-3)
