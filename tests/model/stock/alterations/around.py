"""Parts that are shared, frozen, wrapped, computed again, traced or hooked."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from tests.model.stock.alterations.registry import (
    AROUND_BLOCKS,
    WITHIN_A_BLOCK,
    WITHIN_A_STEM,
    alteration,
    each,
    replace,
    replaced,
)


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
    """A wrapper as several libraries use it, whose parameters are those of the part within."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *arguments, **options):
        return self.module(*arguments, **options)


each("wrapped_within", "ppg_path.stem.enc1", "ecg_path.encoder.blocks.0.mlp", changes=False)(replaced(Wrapped))
each("wrapped_around", *AROUND_BLOCKS[:-1][::-1], changes=False, kernels=True)(replaced(Wrapped))


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


def _larger(module, arguments, out):
    return tuple(1.5 * x if isinstance(x, Tensor) else x for x in out) if isinstance(out, tuple) else 1.5 * out


def _larger_input(module, arguments):
    return (1.5 * arguments[0], *arguments[1:])


def _larger_gradient(module, of_inputs, of_outputs):
    return tuple(None if g is None else 1.5 * g for g in of_inputs)


for _kind, _places, _kernels in (
    ("a_stem", WITHIN_A_STEM, False),
    ("a_block", WITHIN_A_BLOCK, False),
    ("one_activation", ("ppg_path.encoder.blocks.0.mlp.1",), False),
    ("outer_parts", AROUND_BLOCKS[:8], True),
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
