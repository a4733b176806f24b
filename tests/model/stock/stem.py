"""The stem and the patch embedding of the published model, in plain modules."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvBNAct(nn.Sequential):
    """[B, in, L] -> [B, out, L / stride]."""

    def __init__(self, c_in: int, c_out: int, k: int, stride: int = 1) -> None:
        conv = nn.Conv1d(c_in, c_out, k, stride=stride, padding=k // 2, bias=False)
        super().__init__(conv, nn.BatchNorm1d(c_out), nn.SiLU())


class InceptionBlock1D(nn.Module):
    """[B, in, L] -> [B, out, L], from branches that see 3, 5 and 7 samples."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        third = c_out // 3
        widths = (third, third, c_out - 2 * third)
        self.branches = nn.ModuleList(ConvBNAct(c_in, c, k) for c, k in zip(widths, (3, 5, 7), strict=True))
        self.fuse = ConvBNAct(c_out, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse(torch.cat([branch(x) for branch in self.branches], dim=1))


class UNetHalfInceptionStem1D(nn.Module):
    """[B, 1, L] -> [B, S, L]."""

    def __init__(self, c_in: int = 1, c_out: int = 32) -> None:
        super().__init__()
        c1, c2, c3 = 32, 64, 128
        self.enc1 = nn.Sequential(InceptionBlock1D(c_in, c1), InceptionBlock1D(c1, c1))
        self.down1 = ConvBNAct(c1, c2, 3, stride=2)
        self.enc2 = nn.Sequential(InceptionBlock1D(c2, c2), InceptionBlock1D(c2, c2))
        self.down2 = ConvBNAct(c2, c3, 3, stride=2)
        self.enc3 = nn.Sequential(InceptionBlock1D(c3, c3), InceptionBlock1D(c3, c3))
        self.lat2 = nn.Conv1d(c2, c2, 1, bias=False)
        self.lat1 = nn.Conv1d(c1, c1, 1, bias=False)
        self.red3to2 = nn.Conv1d(c3, c2, 1, bias=False)
        self.red2to1 = nn.Conv1d(c2, c1, 1, bias=False)
        self.smooth2 = ConvBNAct(c2, c2, 3)
        self.smooth1 = ConvBNAct(c1, c1, 3)
        self.head = ConvBNAct(c1, c_out, 3)
        if c_out == c_in:
            self.skip, self.skip_bn = nn.Identity(), nn.Identity()
        else:
            self.skip, self.skip_bn = nn.Conv1d(c_in, c_out, 1, bias=False), nn.BatchNorm1d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        e1 = self.enc1(x)
        e2 = self.enc2(self.down1(e1))
        e3 = self.enc3(self.down2(e2))
        t2 = self.smooth2(self.lat2(e2) + _stretch(self.red3to2(e3), e2))
        t1 = self.smooth1(self.lat1(e1) + _stretch(self.red2to1(t2), e1))
        return self.head(t1) + self.skip_bn(self.skip(x))


def _stretch(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-1], mode="linear", align_corners=False)


class PatchEmbed1D(nn.Module):
    """[B, S, L] -> [B, N, D]."""

    def __init__(self, channels: int, d_model: int, patch_len: int) -> None:
        super().__init__()
        self.proj = nn.Conv1d(channels, d_model, patch_len, stride=patch_len)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).transpose(1, 2)
