"""Attention layers, blocks and whole parts that are patched, replaced, added or removed."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.model.stock.alterations.registry import (
    AROUND_BLOCKS,
    ATTENTIONS,
    WITHIN_A_BLOCK,
    WITHIN_A_STEM,
    alteration,
    each,
    replace,
    with_attributes,
)


def doubled(forward: Callable) -> Callable:
    @functools.wraps(forward)
    def patched(*arguments, **options):
        out = forward(*arguments, **options)
        return (2 * out[0], *out[1:]) if isinstance(out, tuple) else 2 * out

    return patched


def patch_forward(model: nn.Module, name: str) -> None:
    module = model.get_submodule(name)
    module.forward = doubled(module.forward)


each("patched_attention", *ATTENTIONS)(patch_forward)
each("patched_attention_of_one", "ecg_path.encoder.blocks.0.attn")(patch_forward)
each("patched_within_a_stem", *WITHIN_A_STEM)(patch_forward)
each("patched_within_a_block", *WITHIN_A_BLOCK)(patch_forward)
each("patched_around_blocks", *AROUND_BLOCKS, kernels=True)(patch_forward)


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


@alteration("ppg_path.stem.enc1.0.branches.0", "ppg_path.stem.enc1.0")
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
