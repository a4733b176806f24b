"""Ways in which code around a model alters its parts in place, for the control and the library's model alike.

`ALTERATIONS[name]` is called with a model and alters it; names of modules are those of the state dict, so the same
function serves both. To add one, decorate a function with `alteration`.
"""

from __future__ import annotations

import functools
import types
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune


class Alteration(NamedTuple):
    function: Callable[[nn.Module], object]
    where: tuple[str, ...]  # modules that are altered; messages name them, or their classes
    changes: bool  # evaluation or a training step gives something else than the model without the alteration
    kernels: bool  # kernels may go on serving the part, or computing within it, as they compute the same
    only_training: bool  # it changes what training computes, and not evaluation
    steps: int  # of training: 1, or 2 where something happens between two of them
    mode: str  # "both"; "eval" or "train" where it alters the mode, or the control cannot run in the other one

    def __call__(self, model: nn.Module) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.function(model)


ALTERATIONS: dict[str, Alteration] = {}


def alteration(
    *where: str,
    name: str = "",
    changes: bool = True,
    kernels: bool = False,
    only_training: bool = False,
    steps: int = 1,
    mode: str = "both",
):
    """Add the function to `ALTERATIONS`, under its own name unless another is given."""

    def add(function: Callable[[nn.Module], object]) -> Callable[[nn.Module], object]:
        key = name or function.__name__
        assert key not in ALTERATIONS, key
        ALTERATIONS[key] = Alteration(function, where, changes, kernels, only_training, steps, mode)
        return function

    return add


def each(name: str, *where: str, **facts):
    """An alteration of several modules: the function is called with the model and the name of one."""

    def add(function: Callable[[nn.Module, str], object]) -> Callable[[nn.Module, str], object]:
        def alter(model: nn.Module) -> None:
            for one in where:
                function(model, one)

        alteration(*where, name=name, **facts)(alter)
        return function

    return add


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` where `name` stands, as peft and users do, in the mode of what stood there."""
    parent, _, last = name.rpartition(".")
    module.train(model.get_submodule(name).training)
    setattr(model.get_submodule(parent), last, module)


def replaced(make: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module, str], None]:
    """For `each`: replaces a module by what `make` returns for it."""
    return lambda model, name: replace(model, name, make(model.get_submodule(name)))


def with_attributes(**values: object) -> Callable[[nn.Module, str], None]:
    """For `each`: sets attributes of a module."""

    def alter(model: nn.Module, name: str) -> None:
        module = model.get_submodule(name)
        for key, value in values.items():
            assert hasattr(module, key), key
            setattr(module, key, value)

    return alter


# Adapters ------------------------------------------------------------------------------------------------------------


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


_CONVS = (
    "ppg_path.stem.enc1.0.branches.0.0",
    "ppg_path.stem.down2.0",
    "ecg_path.stem.lat1",
    "ppg_path.stem.skip",
)
_LINEARS = (
    "ppg_path.encoder.blocks.0.mlp.0",
    "ppg_path.encoder.blocks.1.mlp.2",
    "ecg_path.dec_blk.mlp.0",
    "bridger.ecg2ppg.0.ffn.1",
)
_ATTENTIONS = ("ppg_path.encoder.blocks.0.attn", "ecg_path.dec_blk.attn", "bridger.ecg2ppg.0.attn")
each("lora_of_convolutions", *_CONVS)(replaced(LoRA))
each("lora_of_one_convolution", "ecg_path.stem.down1.0")(replaced(LoRA))
each("lora_of_linears", *_LINEARS)(replaced(LoRA))
each("lora_of_one_linear", "ecg_path.encoder.blocks.0.mlp.2")(replaced(LoRA))
each("lora_of_a_patch_embedding", "ecg_path.patcher.proj")(replaced(LoRA))
each("lora_of_ends", "ppg_path.proj.1", "ecg_path.decoder.deconv", kernels=True)(replaced(LoRA))


class AdaptedAttention(nn.Module):
    """What stands around an attention layer whose output is adapted."""

    def __init__(self, base: nn.MultiheadAttention) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down, self.up = nn.Linear(base.embed_dim, 2), nn.Linear(2, base.embed_dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options) -> tuple[Tensor, Tensor | None]:
        out, seen = self.base(query, key, value, **options)
        return out + self.up(self.down(query)), seen


each("lora_of_attentions", *_ATTENTIONS)(replaced(AdaptedAttention))


# Batch normalisation -------------------------------------------------------------------------------------------------

_NORM = "ppg_path.stem.down1.1"
_SKIP_NORM = "ecg_path.stem.skip_bn"
_NORMS = (_NORM, _SKIP_NORM, "ecg_path.stem.enc3.1.branches.2.1", "ppg_path.stem.head.1")
each("bn_eps", *_NORMS)(with_attributes(eps=0.5))
each("bn_eps_of_one", _SKIP_NORM)(with_attributes(eps=0.5))
each("bn_momentum", *_NORMS, only_training=True)(with_attributes(momentum=0.7))
each("bn_momentum_none", *_NORMS, only_training=True)(with_attributes(momentum=None))
each("bn_momentum_of_one", _NORM, only_training=True)(with_attributes(momentum=1.0))
each("bn_statistics_kept_still", *_NORMS, only_training=True)(with_attributes(track_running_stats=False))


@alteration(_NORM)
def bn_without_statistics(model):
    norm = model.get_submodule(_NORM)
    norm.track_running_stats = False
    norm.running_mean = norm.running_var = norm.num_batches_tracked = None


@alteration(_SKIP_NORM)
def bn_made_without_statistics(model):
    replace(model, _SKIP_NORM, nn.BatchNorm1d(8, track_running_stats=False))


@alteration(_NORM)
def bn_made_without_affine(model):
    replace(model, _NORM, nn.BatchNorm1d(64, affine=False))


@alteration(_NORM)
def bn_weight_taken_away(model):
    norm = model.get_submodule(_NORM)
    norm.weight = norm.bias = None


@alteration(_NORM, only_training=True, mode="train")
def bn_in_evaluation(model):
    model.get_submodule(_NORM).eval()


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


# Layer normalisation, activations, dropout ----------------------------------------------------------------------------

_LAYER_NORMS = (
    "ppg_path.encoder.blocks.0.norm1",
    "ecg_path.encoder.blocks.0.norm2",
    "ecg_path.dec_blk.ln1",
    "ecg_path.dec_blk.ln2",
    "bridger.ecg2ppg.0.nq",
    "bridger.ecg2ppg.0.nkv",
    "bridger.ecg2ppg.0.ffn.0",
)
each("ln_eps", *_LAYER_NORMS)(with_attributes(eps=0.5))
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


_GELUS = ("ppg_path.encoder.blocks.0.mlp.1", "ecg_path.dec_blk.mlp.1", "bridger.ecg2ppg.0.ffn.2")
_SILUS = ("ppg_path.stem.enc1.0.branches.1.2", "ecg_path.stem.down1.2", "ecg_path.stem.head.2")
each("relu_for_gelu", *_GELUS)(replaced(lambda _: nn.ReLU()))
each("relu_for_silu", *_SILUS)(replaced(lambda _: nn.ReLU()))


# The two forms of GELU differ by 5e-4 at most: inputs are made larger, so that they are where it is.
@each("gelu_by_tanh", *_GELUS)
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


_DROPOUTS = ("ppg_path.encoder.blocks.0.mlp.3", "ecg_path.dec_blk.mlp.3", "bridger.ecg2ppg.0.ffn.4")
each("own_dropout", *_DROPOUTS, only_training=True)(replaced(lambda _: EveryOther()))
each("dropout_of_all", *_DROPOUTS, kernels=True, only_training=True)(with_attributes(p=1.0))
each("dropout_removed", *_DROPOUTS, changes=False, kernels=True)(replaced(lambda _: nn.Identity()))


@alteration("ppg_path.encoder.blocks.0.mlp.3", mode="eval")
def dropout_in_evaluation(model):
    model.ppg_path.encoder.blocks[0].mlp[3].p = 1.0
    model.ppg_path.encoder.blocks[0].mlp[3].train()


@alteration("ppg_path.encoder.blocks.0.mlp.3")
def dropout_that_is_functional(model):
    replace(model, "ppg_path.encoder.blocks.0.mlp.3", nn.Threshold(0.0, 0.1))


# Parametrisations, old and new; pruning -------------------------------------------------------------------------------

_WEIGHTS = (
    "ppg_path.stem.enc1.1.branches.1.0",
    "ecg_path.stem.red3to2",
    "ppg_path.patcher.proj",
    "ecg_path.encoder.blocks.0.mlp.0",
    "ecg_path.dec_blk.mlp.2",
    "bridger.ecg2ppg.0.ffn.1",
)
each("spectral_norm_by_hook", *_WEIGHTS, steps=2)(lambda model, name: nn.utils.spectral_norm(model.get_submodule(name)))
each("weight_norm_by_hook", *_WEIGHTS, steps=2, changes=False)(
    lambda model, name: nn.utils.weight_norm(model.get_submodule(name))
)
each("spectral_norm", *_WEIGHTS, steps=2, kernels=True)(
    lambda model, name: parametrizations.spectral_norm(model.get_submodule(name))
)
each("weight_norm", *_WEIGHTS, steps=2, changes=False, kernels=True)(
    lambda model, name: parametrizations.weight_norm(model.get_submodule(name))
)
each("pruned", *_WEIGHTS, steps=2)(
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


# Attention ------------------------------------------------------------------------------------------------------------


def doubled(forward: Callable) -> Callable:
    @functools.wraps(forward)
    def patched(*arguments, **options):
        out = forward(*arguments, **options)
        return (2 * out[0], *out[1:]) if isinstance(out, tuple) else 2 * out

    return patched


def patch_forward(model: nn.Module, name: str) -> None:
    module = model.get_submodule(name)
    module.forward = doubled(module.forward)


_WITHIN_A_STEM = (
    "ppg_path.stem.enc1.0.branches.0.0",
    "ppg_path.stem.down1",
    "ecg_path.stem.enc2.0",
    "ecg_path.stem.enc2",
    "ecg_path.stem.head.2",
)
_WITHIN_A_BLOCK = (
    "ppg_path.encoder.blocks.1.mlp",
    "ecg_path.encoder.blocks.0.norm1",
    "ecg_path.dec_blk.mlp.3",
    "bridger.ecg2ppg.0.ffn",
)
_AROUND_BLOCKS = (  # a kernel may compute within their forward
    "ppg_path.stem",
    "ecg_path.patcher",
    "ppg_path.encoder",
    "ppg_path.encoder.blocks.1",
    "ppg_path.proj",
    "ecg_path.dec_blk",
    "ecg_path.decoder",
    "ecg_path.decoder.deconv",
    "bridger",
    "bridger.ecg2ppg.0",
)
each("patched_attention", *_ATTENTIONS)(patch_forward)
each("patched_attention_of_one", "ecg_path.encoder.blocks.0.attn")(patch_forward)
each("patched_within_a_stem", *_WITHIN_A_STEM)(patch_forward)
each("patched_within_a_block", *_WITHIN_A_BLOCK)(patch_forward)
each("patched_around_blocks", *_AROUND_BLOCKS, kernels=True)(patch_forward)


@alteration("ppg_path.encoder.blocks.0")
def forward_bound_to_the_instance(model):
    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        return x + self.mlp(self.norm2(x)) + self.attn(h, h, h, need_weights=False)[0]

    block = model.ppg_path.encoder.blocks[0]
    block.forward = types.MethodType(forward, block)


class Louder(nn.MultiheadAttention):
    def forward(self, *arguments, **options):
        out, seen = super().forward(*arguments, **options)
        return 1.5 * out, seen


@alteration("ecg_path.encoder.blocks.0.attn")
def attention_of_another_class(model):
    model.ecg_path.encoder.blocks[0].attn.__class__ = Louder


@alteration("bridger.ecg2ppg.0.attn")
def attention_replaced(model):
    replace(model, "bridger.ecg2ppg.0.attn", Louder(32, 2, batch_first=True))


each("other_heads", "ppg_path.encoder.blocks.0.attn", kernels=True)(with_attributes(num_heads=2, head_dim=16))


@alteration("ppg_path.encoder.blocks.0.attn")
def attention_without_bias(model):
    replace(model, "ppg_path.encoder.blocks.0.attn", nn.MultiheadAttention(32, 4, bias=False, batch_first=True))


@alteration("bridger.ecg2ppg.0.attn")
def attention_with_own_key(model):
    replace(model, "bridger.ecg2ppg.0.attn", nn.MultiheadAttention(32, 4, add_bias_kv=True, batch_first=True))


@alteration("ecg_path.dec_blk.attn")
def attention_with_a_zero(model):
    model.ecg_path.dec_blk.attn.add_zero_attn = True


@alteration("ppg_path.encoder.blocks.0.attn")
def attention_over_the_batch(model):
    model.ppg_path.encoder.blocks[0].attn.batch_first = False


# Other blocks and layers ----------------------------------------------------------------------------------------------


class Own(nn.Module):
    """A block of a user's own."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.mix = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.mix(x)).flip(1)


@alteration("ppg_path.encoder.blocks.2")
def block_appended(model):
    model.ppg_path.encoder.blocks.append(Own().train(model.training))


@alteration("ppg_path.encoder.blocks.0")
def block_replaced(model):
    replace(model, "ppg_path.encoder.blocks.0", Own())


@alteration("ppg_path.encoder.blocks.0")
def block_made_identity(model):
    replace(model, "ppg_path.encoder.blocks.0", nn.Identity())


@alteration("ppg_path.encoder", kernels=True)
def block_removed(model):
    del model.ppg_path.encoder.blocks[0]


@alteration("ppg_path.encoder", kernels=True)
def blocks_in_another_order(model):
    blocks = model.ppg_path.encoder.blocks
    blocks[0], blocks[1] = blocks[1], blocks[0]


@alteration("ppg_path.encoder", kernels=True)
def block_used_twice(model):
    model.ppg_path.encoder.blocks.append(model.ppg_path.encoder.blocks[0])


@alteration("ppg_path.encoder")
def encoder_replaced(model):
    replace(model, "ppg_path.encoder", nn.Sequential(Own(), nn.LayerNorm(32)))


@alteration("ecg_path.dec_blk")
def decoder_block_of_torch(model):
    replace(model, "ecg_path.dec_blk", nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True))


@alteration("ecg_path.decoder", kernels=True)
def decoder_replaced(model):
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(32, 10)

        def forward(self, t: Tensor) -> Tensor:
            return self.out(t).flatten(1).unsqueeze(1)

    replace(model, "ecg_path.decoder", Decoder())


@alteration("bridger.ecg2ppg.1", changes=True)
def bridge_block_of_ones_own(model):
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(32, 32)

        def forward(self, q: Tensor, kv: Tensor) -> Tensor:
            return q + self.mix(kv).mean(1, keepdim=True)

    model.bridger.ecg2ppg.append(Cross().train(model.training))


@alteration("bridger", kernels=True)
def bridge_block_of_the_other_direction(model):
    model.bridger.ecg2ppg[0] = model.bridger.ppg2ecg[0]


@alteration("ppg_path.stem")
def stem_replaced(model):
    stem = nn.Sequential(nn.Conv1d(1, 8, 7, padding=3), nn.BatchNorm1d(8), nn.ReLU())
    replace(model, "ppg_path.stem", stem)


@alteration("ppg_path.stem.enc3")
def stem_without_a_level(model):
    replace(model, "ppg_path.stem.enc3", nn.Identity())


@alteration("ecg_path.stem.enc1.2")
def stem_with_one_more_layer(model):
    model.ecg_path.stem.enc1.append(nn.Conv1d(32, 32, 3, padding=1).train(model.training))


@alteration("ppg_path.stem.enc1.0.branches.3", "ppg_path.stem.enc1.0")
def inception_with_another_order(model):
    branches = model.ppg_path.stem.enc1[0].branches
    branches[0], branches[1] = branches[1], branches[0]


@alteration("ppg_path.proj", kernels=True)
def head_replaced(model):
    replace(model, "ppg_path.proj", nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 5)))


@alteration("ppg_path.proj", kernels=True)
def head_removed(model):
    replace(model, "ppg_path.proj", nn.Identity())


@alteration("ppg_path.patcher")
def patcher_replaced(model):
    class Patcher(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8 * 10, 32)

        def forward(self, f: Tensor) -> Tensor:
            return self.linear(f.unfold(2, 10, 10).transpose(1, 2).flatten(2))

    replace(model, "ppg_path.patcher", Patcher())


# Attributes and parameters of layers ----------------------------------------------------------------------------------

each("conv_stride", "ppg_path.stem.down1.0")(with_attributes(stride=(4,)))
each("conv_padding", "ppg_path.stem.down1.0")(with_attributes(padding=(2,)))
each("conv_dilation", "ecg_path.stem.smooth1.0")(with_attributes(dilation=(2,), padding=(2,)))
each("conv_padding_mode", "ecg_path.stem.enc1.0.branches.2.0")(with_attributes(padding_mode="circular"))


@each("conv_with_bias", "ppg_path.stem.enc1.0.fuse.0", "ecg_path.stem.lat2", "ecg_path.stem.skip")
def _conv_with_bias(model, name):
    conv = model.get_submodule(name)
    replace(model, name, nn.Conv1d(conv.in_channels, conv.out_channels, 1, bias=True))


@alteration("ecg_path.stem.red2to1")
def conv_given_a_bias(model):
    model.ecg_path.stem.red2to1.bias = nn.Parameter(torch.randn(32))


@alteration("ppg_path.stem.enc2.1.fuse.0")
def conv_in_groups(model):
    replace(model, "ppg_path.stem.enc2.1.fuse.0", nn.Conv1d(64, 64, 1, groups=4, bias=False))


@alteration("ecg_path.stem.smooth1.0")
def conv_with_a_longer_kernel(model):
    replace(model, "ecg_path.stem.smooth1.0", nn.Conv1d(32, 32, 9, padding=4, bias=False))


each("linear_bias_taken_away", *_LINEARS)(with_attributes(bias=None))
each("patch_embedding_bias_taken_away", "ppg_path.patcher.proj")(with_attributes(bias=None))
each("decoder_bias_taken_away", "ecg_path.decoder.deconv", kernels=True)(with_attributes(bias=None))
each("attention_bias_taken_away", *_ATTENTIONS)(with_attributes(in_proj_bias=None))


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


class ScaledConv(nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


@alteration("ecg_path.dec_blk.mlp.0")
def linear_of_another_class(model):
    model.ecg_path.dec_blk.mlp[0].__class__ = Scaled


@alteration("ppg_path.stem.skip")
def conv_of_another_class(model):
    model.ppg_path.stem.skip.__class__ = ScaledConv


@alteration("ppg_path.encoder.blocks.1.mlp")
def wider_feed_forward(model):
    mlp = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32), nn.Dropout(0.0))
    replace(model, "ppg_path.encoder.blocks.1.mlp", mlp)


@alteration("ppg_path.encoder.blocks.1.mlp")
def gated_feed_forward(model):
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both, self.out = nn.Linear(32, 96), nn.Linear(48, 32)

        def forward(self, x: Tensor) -> Tensor:
            value, gate = self.both(x).chunk(2, -1)
            return self.out(value * torch.sigmoid(gate))

    replace(model, "ppg_path.encoder.blocks.1.mlp", Gated())


@alteration("ppg_path.encoder.blocks.0.mlp.4")
def feed_forward_with_one_more_layer(model):
    model.ppg_path.encoder.blocks[0].mlp.append(nn.Tanh())


# Shared, frozen, wrapped ----------------------------------------------------------------------------------------------


@alteration("ecg_path.stem", kernels=True)
def one_stem_for_both(model):
    model.ecg_path.stem = model.ppg_path.stem


@alteration("ecg_path.encoder.blocks.0", kernels=True)
def one_block_for_both(model):
    model.ecg_path.encoder.blocks[0] = model.ppg_path.encoder.blocks[0]


@alteration("ecg_path.patcher.proj", kernels=True)
def one_weight_for_both(model):
    model.ecg_path.patcher.proj.weight = model.ppg_path.patcher.proj.weight


@alteration("ppg_path", kernels=True, only_training=True)
def path_frozen(model):
    model.ppg_path.requires_grad_(False)


@alteration("ppg_path.stem.enc1", kernels=True, only_training=True)
def part_of_a_stem_frozen(model):
    model.ppg_path.stem.enc1.requires_grad_(False)
    model.ppg_path.stem.head.requires_grad_(False)
    model.ppg_path.stem.skip.requires_grad_(False)


@alteration("ppg_path.encoder.blocks.0.attn", kernels=True, only_training=True)
def single_parameters_frozen(model):
    model.ppg_path.pos.requires_grad_(False)
    model.ppg_path.encoder.blocks[0].attn.in_proj_bias.requires_grad_(False)
    model.ecg_path.dec_blk.mlp[2].weight.requires_grad_(False)
    model.ecg_path.stem.down1[0].weight.requires_grad_(False)
    model.ecg_path.stem.down1[1].bias.requires_grad_(False)


class Wrapped(nn.Module):
    """What several libraries put around a part: its own parameters are those of the part."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *arguments, **options):
        return self.module(*arguments, **options)


each("wrapped_within", "ppg_path.stem.enc1", "ecg_path.encoder.blocks.0.mlp", changes=False)(replaced(Wrapped))
each("wrapped_around", *_AROUND_BLOCKS[:-1][::-1], changes=False, kernels=True)(replaced(Wrapped))


class Recomputed(Wrapped):
    def forward(self, *arguments):
        return torch.utils.checkpoint.checkpoint(self.module, *arguments, use_reentrant=False)


each("recomputed", "ppg_path.encoder.blocks.0", "ecg_path.dec_blk", "bridger.ecg2ppg.0", changes=False, kernels=True)(
    replaced(Recomputed)
)


@alteration("ppg_path.encoder.blocks.0", changes=False, kernels=True)
def recomputed_in_its_own_forward(model):
    block = model.ppg_path.encoder.blocks[0]
    block.forward = functools.partial(torch.utils.checkpoint.checkpoint, block.forward, use_reentrant=False)


@alteration("ppg_path.encoder.blocks.0.mlp", changes=False)
def traced_by_fx(model):
    replace(model, "ppg_path.encoder.blocks.0.mlp", torch.fx.symbolic_trace(model.ppg_path.encoder.blocks[0].mlp))


@alteration("ppg_path.encoder.blocks.0.mlp")
def rewritten_by_fx(model):
    traced = torch.fx.symbolic_trace(model.ppg_path.encoder.blocks[0].mlp)
    for node in traced.graph.nodes:
        if node.target == "1":
            with traced.graph.inserting_after(node):
                new = traced.graph.call_function(torch.relu, (node.args[0],))
            node.replace_all_uses_with(new)
    traced.recompile()
    replace(model, "ppg_path.encoder.blocks.0.mlp", traced)


# Hooks ----------------------------------------------------------------------------------------------------------------


def _larger(module, arguments, out):
    return tuple(1.5 * x if isinstance(x, Tensor) else x for x in out) if isinstance(out, tuple) else 1.5 * out


def _larger_input(module, arguments):
    return (1.5 * arguments[0], *arguments[1:])


def _larger_gradient(module, of_inputs, of_outputs):
    return tuple(None if g is None else 1.5 * g for g in of_inputs)


for _kind, _places, _kernels in (
    ("a_stem", _WITHIN_A_STEM, False),
    ("a_block", _WITHIN_A_BLOCK, False),
    ("one_activation", ("ppg_path.encoder.blocks.0.mlp.1",), False),
    ("outer_parts", _AROUND_BLOCKS[:8], True),
):
    each(f"hooks_of_{_kind}", *_places, kernels=_kernels)(
        lambda model, name: model.get_submodule(name).register_forward_hook(_larger)
    )
    each(f"pre_hooks_of_{_kind}", *_places, kernels=_kernels)(
        lambda model, name: model.get_submodule(name).register_forward_pre_hook(_larger_input)
    )
    each(f"backward_hooks_of_{_kind}", *_places, kernels=_kernels, only_training=True)(
        lambda model, name: model.get_submodule(name).register_full_backward_hook(_larger_gradient)
    )


@alteration("ppg_path.stem.down1.0", kernels=True, only_training=True)
def hook_of_a_parameter(model):
    model.ppg_path.stem.down1[0].weight.register_hook(lambda g: 2 * g)
    model.ecg_path.dec_blk.attn.in_proj_weight.register_hook(lambda g: 2 * g)


@alteration("bridger.ecg2ppg.0.attn")
def hook_with_keywords(model):
    def louder(module, arguments, options, out):
        assert options == {"need_weights": False}
        return (2 * out[0], out[1])

    model.bridger.ecg2ppg[0].attn.register_forward_hook(louder, with_kwargs=True)
