"""Parametrisations of weights by hooks and by torch.nn.utils.parametrize; pruning."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from tests.model.stock.alterations.registry import WEIGHTS, alteration, each

each("spectral_norm_by_hook", *WEIGHTS, steps=2)(lambda model, name: nn.utils.spectral_norm(model.get_submodule(name)))
each("weight_norm_by_hook", *WEIGHTS, steps=2, changes=False)(
    lambda model, name: nn.utils.weight_norm(model.get_submodule(name))
)
each("spectral_norm", *WEIGHTS, steps=2, kernels=True)(
    lambda model, name: parametrizations.spectral_norm(model.get_submodule(name))
)
each("weight_norm", *WEIGHTS, steps=2, changes=False, kernels=True)(
    lambda model, name: parametrizations.weight_norm(model.get_submodule(name))
)
each("pruned", *WEIGHTS, steps=2)(
    lambda model, name: prune.l1_unstructured(model.get_submodule(name), "weight", amount=0.5)
)
each("pruned_head", "ppg_path.proj.1", steps=2, kernels=True)(
    lambda model, name: prune.l1_unstructured(model.get_submodule(name), "weight", amount=0.5)
)


class Negated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -x


@alteration("ppg_path.stem.down1.1", kernels=True)
def parametrised(model):
    for name, weight in (
        ("ppg_path.stem.down1.1", "bias"),
        ("ecg_path.encoder.blocks.0.norm1", "weight"),
        ("ppg_path.encoder.blocks.0.attn", "in_proj_weight"),
        ("bridger.ecg2ppg.0.attn", "in_proj_bias"),
        ("ppg_path.encoder.blocks.0.attn.out_proj", "weight"),
        ("ppg_path", "pos"),
        ("", "mask_token"),
        ("ecg_path.mask_loc_table", "weight"),
        ("ecg_path.decoder.deconv", "weight"),
    ):
        parametrize.register_parametrization(model.get_submodule(name), weight, Negated())


@alteration("ecg_path.encoder.blocks.0.mlp.0", steps=2)
def pruned_twice(model):
    linear = model.ecg_path.encoder.blocks[0].mlp[0]
    prune.l1_unstructured(linear, "weight", amount=0.3)
    prune.random_structured(linear, "weight", amount=0.3, dim=0)


@alteration("ppg_path.stem.down1.0", kernels=True)
def pruned_for_good(model):
    conv = model.ppg_path.stem.down1[0]
    prune.l1_unstructured(conv, "weight", amount=0.5)
    prune.remove(conv, "weight")


@alteration("ppg_path.encoder.blocks.0.attn", steps=2)
def pruned_attention(model):
    prune.l1_unstructured(model.ppg_path.encoder.blocks[0].attn, "in_proj_weight", amount=0.5)


@alteration("ppg_path.stem.down1.1")
def pruned_batch_norm(model):
    prune.l1_unstructured(model.ppg_path.stem.down1[1], "weight", amount=0.5)
