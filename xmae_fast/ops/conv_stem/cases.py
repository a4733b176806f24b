"""Cases of conv_stem. `stem_macs` counts multiply-accumulates layer by layer."""

from __future__ import annotations

import torch

from xmae_fast.ops.cases import OpCases, cases
from xmae_fast.ops.conv_stem import ConvBN, Inception, StemParams, conv_stem, reference


def make_conv_bn(make, c_in: int, c_out: int, k: int) -> ConvBN:
    tracked = make.normal(1).to(int)[0] * 0
    return ConvBN(
        make.weight(c_out, c_in, k), make.normal(c_out, std=0.1, mean=1), make.normal(c_out, std=0.1),
        make.normal(c_out, std=0.1), make.uniform(c_out, low=0.5, high=1.5), tracked,
    )  # fmt: skip


def make_inception(make, c_in: int, c_out: int) -> Inception:
    third = c_out // 3
    widths = zip((third, third, c_out - 2 * third), (3, 5, 7), strict=True)
    k3, k5, k7 = (make_conv_bn(make, c_in, width, k) for width, k in widths)
    return Inception((k3, k5, k7), make_conv_bn(make, c_out, c_out, 1))


def make_stem(make, channels: int, widths: tuple[int, int, int]) -> StemParams:
    c1, c2, c3 = widths
    return StemParams(
        enc1=(make_inception(make, 1, c1), make_inception(make, c1, c1)),
        down1=make_conv_bn(make, c1, c2, 3),
        enc2=(make_inception(make, c2, c2), make_inception(make, c2, c2)),
        down2=make_conv_bn(make, c2, c3, 3),
        enc3=(make_inception(make, c3, c3), make_inception(make, c3, c3)),
        lat2=make.weight(c2, c2, 1), lat1=make.weight(c1, c1, 1),
        red3to2=make.weight(c2, c3, 1), red2to1=make.weight(c1, c2, 1),
        smooth2=make_conv_bn(make, c2, c2, 3), smooth1=make_conv_bn(make, c1, c1, 3),
        head=make_conv_bn(make, c1, channels, 3), skip=make_conv_bn(make, 1, channels, 1),
    )  # fmt: skip


# Signals that hardly vary, so that the statistics of a batch say little or nothing: x [B, 1, L] from normal numbers.
SIGNALS = {
    "normal": lambda x: x,
    "constant": lambda x: x * 0 + 0.7,  # the same number in all samples
    "constants": lambda x: x[..., :1].expand_as(x).contiguous(),  # each sample its own
    "dead lead": lambda x: torch.cat([x[:1] * 0 + 0.7, x[1:]]),  # one sample of several
    "zeros": lambda x: x * 0,
    "flat": lambda x: x * 1e-6 + 0.7,
    "step": lambda x: (torch.arange(x.shape[-1]) * 2 // x.shape[-1]).to(x).expand_as(x) * 0.1 + 0.5,
    "offset": lambda x: x * 1e-3 + 1000,
}


def make_inputs(sizes, make):
    stem = make_stem(make, sizes["S"], sizes.get("widths", (32, 64, 128)))
    x = SIGNALS[sizes.get("signal", "normal")](make.normal(sizes["B"], 1, sizes["L"]))
    return {"x": x, "params": stem, "training": sizes["training"]}


def inception_macs(c_in: int, c_out: int) -> int:
    third = c_out // 3
    return c_in * (3 * third + 5 * third + 7 * (c_out - 2 * third)) + c_out * c_out


def stem_macs(L: int, channels: int, widths: tuple[int, int, int] = (32, 64, 128)) -> int:
    """Multiply-accumulates of one sample's forward."""
    c1, c2, c3 = widths
    L2 = (L + 1) // 2
    L3 = (L2 + 1) // 2
    level1 = inception_macs(1, c1) + inception_macs(c1, c1) + c1 * c1 + 3 * c1 * c1 + 3 * c1 * channels + channels
    level2 = 3 * c1 * c2 + 2 * inception_macs(c2, c2) + c2 * c2 + 3 * c2 * c2 + c2 * c1
    level3 = 3 * c2 * c3 + 2 * inception_macs(c3, c3) + c3 * c2
    return L * level1 + L2 * level2 + L3 * level3


CASES = OpCases(
    op="conv_stem",
    make_inputs=make_inputs,
    call=lambda inputs, impl: conv_stem(**inputs, impl=impl),
    oracle=lambda inputs: reference.conv_stem(**inputs),
    tests=cases(
        *(
            {"B": B, "L": L, "S": S, "training": training, "widths": widths}
            for training in (False, True)
            for B, L, S, widths in ((2, 40, 32, (32, 64, 128)), (3, 37, 16, (32, 64, 128)))
        ),
        {"B": 2, "L": 5, "S": 3, "training": False, "widths": (13, 22, 31)},
        # Fewer values on level 3 would make BatchNorm chaotic in float32; narrower branches have gradients of one
        # number, whose relative error is a matter of luck.
        {"B": 8, "L": 13, "S": 3, "training": True, "widths": (22, 31, 45)},
        {"B": 1, "L": 1, "S": 4, "training": False, "widths": (4, 8, 8)},
        *(
            {"B": 6, "L": 60, "S": 3, "training": True, "widths": (22, 31, 45), "signal": signal}
            for signal in list(SIGNALS)[1:]
        ),
    ),
    benches=cases(
        {"B": 64, "L": 1000, "S": 32, "training": False},
        {"B": 1, "L": 1000, "S": 32, "training": False},
        {"B": 64, "L": 1000, "S": 32, "training": True},
        {"B": 64, "L": 200, "S": 32, "training": True},
    ),
    flops=lambda s: 2 * s["B"] * stem_macs(s["L"], s["S"], s.get("widths", (32, 64, 128))),
    bytes_moved=lambda s: 4 * s["B"] * s["L"] * (1 + s["S"]),
    no_grad=("running_mean", "running_var", "num_batches_tracked"),
)
