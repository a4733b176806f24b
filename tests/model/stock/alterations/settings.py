"""Attributes and parameters of single layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.model.stock.alterations.registry import ATTENTIONS, LINEARS, alteration, each, replace, with_attributes

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


each("linear_bias_taken_away", *LINEARS)(with_attributes(bias=None))
each("patch_embedding_bias_taken_away", "ppg_path.patcher.proj")(with_attributes(bias=None))
each("decoder_bias_taken_away", "ecg_path.decoder.deconv", kernels=True)(with_attributes(bias=None))
each("attention_bias_taken_away", *ATTENTIONS)(with_attributes(in_proj_bias=None))


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


@alteration("ppg_path.encoder.blocks.1.mlp", kernels=True)
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
