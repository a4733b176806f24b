"""Adapters of layers; normalisations, activations and dropouts that are set otherwise or replaced."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.model.stock.alterations.registry import (
    ATTENTIONS,
    CONVS,
    DROPOUTS,
    GELUS,
    LAYER_NORMS,
    LINEARS,
    NORM,
    NORMS,
    SILUS,
    SKIP_NORM,
    alteration,
    each,
    replace,
    replaced,
    with_attributes,
)


class LoRA(nn.Module):
    """A frozen layer and a low-rank update of its output, both trained parts different from zero."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        if isinstance(base, nn.Linear):
            self.down = nn.Linear(base.in_features, 2, bias=False)
            self.up = nn.Linear(2, base.out_features, bias=False)
        elif isinstance(base, nn.ConvTranspose1d):
            self.down = nn.Conv1d(base.in_channels, 2, 1, bias=False)
            self.up = nn.ConvTranspose1d(2, base.out_channels, base.kernel_size, base.stride, bias=False)
        else:
            self.down = nn.Conv1d(base.in_channels, 2, base.kernel_size, base.stride, base.padding, bias=False)
            self.up = nn.Conv1d(2, base.out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


each("lora_of_convolutions", *CONVS)(replaced(LoRA))
each("lora_of_one_convolution", "ecg_path.stem.down1.0")(replaced(LoRA))
each("lora_of_linears", *LINEARS)(replaced(LoRA))
each("lora_of_one_linear", "ecg_path.encoder.blocks.0.mlp.2")(replaced(LoRA))
each("lora_of_a_patch_embedding", "ecg_path.patcher.proj")(replaced(LoRA))
each("lora_of_ends", "ppg_path.proj.1", "ecg_path.decoder.deconv", kernels=True)(replaced(LoRA))


class AdaptedAttention(nn.Module):
    """A wrapper of an attention layer that adapts its output."""

    def __init__(self, base: nn.MultiheadAttention) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down, self.up = nn.Linear(base.embed_dim, 2), nn.Linear(2, base.embed_dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options) -> tuple[Tensor, Tensor | None]:
        out, seen = self.base(query, key, value, **options)
        return out + self.up(self.down(query)), seen


each("lora_of_attentions", *ATTENTIONS)(replaced(AdaptedAttention))


each("bn_eps", *NORMS)(with_attributes(eps=0.5))
each("bn_eps_of_one", SKIP_NORM)(with_attributes(eps=0.5))
each("bn_momentum", *NORMS, only_training=True)(with_attributes(momentum=0.7))
each("bn_momentum_none", *NORMS, only_training=True)(with_attributes(momentum=None))
each("bn_momentum_of_one", NORM, only_training=True)(with_attributes(momentum=1.0))
each("bn_statistics_kept_still", *NORMS, only_training=True)(with_attributes(track_running_stats=False))


@alteration(NORM)
def bn_without_statistics(model):
    norm = model.get_submodule(NORM)
    norm.track_running_stats = False
    norm.running_mean = norm.running_var = norm.num_batches_tracked = None


@alteration(SKIP_NORM)
def bn_made_without_statistics(model):
    replace(model, SKIP_NORM, nn.BatchNorm1d(8, track_running_stats=False))


@alteration(NORM)
def bn_made_without_affine(model):
    replace(model, NORM, nn.BatchNorm1d(64, affine=False))


@alteration(NORM)
def bn_weight_taken_away(model):
    norm = model.get_submodule(NORM)
    norm.weight = norm.bias = None


@alteration(NORM, only_training=True, mode="train")
def bn_in_evaluation(model):
    model.get_submodule(NORM).eval()


@alteration("ecg_path.stem.enc1.0.branches.0.1", only_training=True, mode="train")
def half_of_a_stem_in_evaluation(model):
    model.ecg_path.stem.enc1.eval()


@alteration("ppg_path.stem", kernels=True, only_training=True, mode="train")
def stem_in_evaluation(model):
    model.ppg_path.stem.eval()


@alteration("ppg_path.stem.enc2.0.branches.1.1", mode="eval")
def bn_in_training_in_evaluation(model):
    model.ppg_path.stem.enc2[0].branches[1][1].train()


@alteration("ecg_path.stem.smooth2.1")
def group_norm(model):
    replace(model, "ecg_path.stem.smooth2.1", nn.GroupNorm(8, 64))


@alteration("ppg_path.stem.enc1.1.fuse.1")
def instance_norm(model):
    replace(model, "ppg_path.stem.enc1.1.fuse.1", nn.InstanceNorm1d(32, affine=True))


@alteration("ppg_path.stem.smooth1.1")
def bn_removed(model):
    replace(model, "ppg_path.stem.smooth1.1", nn.Identity())


@alteration("ppg_path.stem.enc1.0.branches.0.1", changes=False, mode="eval")
def sync_batch_norm(model):
    model.ppg_path.stem = nn.SyncBatchNorm.convert_sync_batchnorm(model.ppg_path.stem)


class ShiftedNorm(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.25


@alteration("ecg_path.stem.head.1")
def bn_of_another_class(model):
    model.ecg_path.stem.head[1].__class__ = ShiftedNorm


each("ln_eps", *LAYER_NORMS)(with_attributes(eps=0.5))
each("ln_eps_of_one", "ppg_path.encoder.blocks.1.norm2")(with_attributes(eps=0.5))
each("ln_eps_of_the_head", "ppg_path.proj.0", kernels=True)(with_attributes(eps=0.5))


@alteration("ppg_path.encoder.blocks.1.norm1")
def ln_without_affine(model):
    replace(model, "ppg_path.encoder.blocks.1.norm1", nn.LayerNorm(32, elementwise_affine=False))


@alteration("ppg_path.encoder.blocks.1.norm2")
def ln_without_bias(model):
    model.ppg_path.encoder.blocks[1].norm2.bias = None


@alteration("ecg_path.dec_blk.ln1")
def rms_norm(model):
    replace(model, "ecg_path.dec_blk.ln1", nn.RMSNorm(32))


each("relu_for_gelu", *GELUS)(replaced(lambda _: nn.ReLU()))
each("relu_for_silu", *SILUS)(replaced(lambda _: nn.ReLU()))


# The two forms of GELU differ by 5e-4 at most: inputs are made larger, so that they are where it is.
@each("gelu_by_tanh", *GELUS)
def _gelu_by_tanh(model, name):
    model.get_submodule(name).approximate = "tanh"
    parent, _, last = name.rpartition(".")
    with torch.no_grad():
        for layer in (int(last) - 1, int(last) + 1):
            model.get_submodule(f"{parent}.{layer}").weight *= 5


@alteration("ecg_path.encoder.blocks.0.mlp.1")
def activation_removed(model):
    replace(model, "ecg_path.encoder.blocks.0.mlp.1", nn.Identity())


@alteration("ppg_path.stem.enc1.0.branches.1.2", changes=False, kernels=True)
def silu_in_place(model):
    model.ppg_path.stem.enc1[0].branches[1][2].inplace = True


class Softer(nn.SiLU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(0.5 * x)


@alteration("ppg_path.stem.head.2")
def silu_of_another_class(model):
    replace(model, "ppg_path.stem.head.2", Softer())


class EveryOther(nn.Module):
    """A dropout without chance: every other feature counts double, the others not at all."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (2 * (torch.arange(x.shape[-1], device=x.device) % 2)).to(x.dtype) if self.training else x


each("own_dropout", *DROPOUTS, only_training=True)(replaced(lambda _: EveryOther()))
each("dropout_of_all", *DROPOUTS, kernels=True, only_training=True)(with_attributes(p=1.0))
each("dropout_removed", *DROPOUTS, changes=False, kernels=True)(replaced(lambda _: nn.Identity()))


@alteration("ppg_path.encoder.blocks.0.mlp.3", mode="eval")
def dropout_in_evaluation(model):
    model.ppg_path.encoder.blocks[0].mlp[3].p = 1.0
    model.ppg_path.encoder.blocks[0].mlp[3].train()


@alteration("ppg_path.encoder.blocks.0.mlp.3")
def dropout_that_is_functional(model):
    replace(model, "ppg_path.encoder.blocks.0.mlp.3", nn.Threshold(0.0, 0.1))
