"""patch_embed: one token per patch of the stem's features."""

from __future__ import annotations

from torch import Tensor

from xmae_fast import backend
from xmae_fast.ops._checks import check_like, dims, kernel_dtype
from xmae_fast.ops._gradients import wants_gradient
from xmae_fast.ops.patch_embed import operators, reference

_OPERATORS = ("patch_embed", "patch_embed_backward")
backend.declare("patch_embed")
_IN_BFLOAT16 = ("patch_embed_train_bf16", "patch_embed_backward_bf16")
backend.register("patch_embed", "cpu", _OPERATORS, bfloat16="patch_embed_bf16", bfloat16_training=_IN_BFLOAT16)
backend.register("patch_embed", "triton", tuple(f"{name}_triton" for name in _OPERATORS))


def patch_embed(features: Tensor, weight: Tensor, bias: Tensor, pos: Tensor, *, impl: str = "auto") -> Tensor:
    """Linear map of every patch, plus its position.

    Args:
        features: [B, S, N * P].
        weight: [D, S, P].
        bias: [D].
        pos: [1, N, D].
        impl: which implementation runs, see `xmae_fast.backend`.

    Returns:
        [B, N, D] = Conv1d(features, weight, bias, stride P) + pos.

    Raises:
        ValueError: shapes do not fit.
        TypeError: dtype or device differ.
        BackendError: `impl` cannot serve this call.
    """
    D, S, P = dims("weight", weight, "D S P")
    _, N, _ = dims("pos", pos, "1 N D", D=D)
    dims("features", features, "B S L", S=S, L=N * P)
    dims("bias", bias, "D", D=D)
    check_like("features", features, "weight", weight)
    # Under autocast the kernels for the CPU take features of the stem in bfloat16 together with float32 weights.
    tensors = (weight, bias, pos) if features.device.type == "cpu" else (features, weight, bias, pos)
    inference = not wants_gradient(features, weight, bias, pos)
    chosen = backend.resolve("patch_embed", impl, features.device, kernel_dtype(*tensors), inference=inference)
    if chosen != "reference":
        try:
            return operators.patch_embed(features, weight, bias, pos, chosen)
        except backend.KernelFailure as failure:
            backend.do_without("patch_embed", chosen, impl, failure)
    return reference.patch_embed(features, weight, bias, pos)
