"""The tables of xmae_fast/ops/conv_stem/cuda/README.md: work, traffic, predicted time of the stem in evaluation.

    python -m tests.ops.cuda.predict

Shared-memory accesses are counted in a run on the host (host/cta.h); everything else follows from the plan. What is
assumed of an H200 stands in the constants below; none of it was measured with this kernel.
"""

from __future__ import annotations

from collections import defaultdict

from tests.ops.cuda.stem_host import Banks, HostStem
from xmae_fast.ops.cases import Maker
from xmae_fast.ops.conv_stem.cases import make_inputs, stem_macs

L, S, B = 1000, 32, 512
FULL = 1024  # samples for which all lanes of every access take part
CLOCK, MULTIPROCESSORS = 1.75e9, 132
HMMA_CLOCKS = 1.6  # of one mma.m16n8k16 on a multiprocessor: mma.sync at 62 % of the dense rate of wgmma
TANH_PER_CLOCK = 16
EPILOGUE_INSTRUCTIONS = 4  # of each output, besides tanh: fused multiply-add, half a conversion, a store, addresses
LANES = 128
BARRIER_CLOCKS = 40
HMMA_MACS = 16 * 8 * 16

# Name, layers of the plan, level, tiles of 16 rows, SiLUs per row, barriers without those of the stream.
GROUPS = (
    ("enc1 block 1 (7 taps of x, fuse)", (0, 1, 2), 64, 64, 2),
    ("enc1 block 2", (3, 4, 5), 64, 64, 2),
    ("down1 (stride 2)", (6,), 32, 64, 2),
    ("enc2 block 1", (7, 8, 9), 32, 128, 2),
    ("enc2 block 2", (10, 11, 12), 32, 128, 2),
    ("down2 (stride 2)", (13,), 16, 128, 2),
    ("enc3 block 1", (14, 15, 16), 16, 256, 2),
    ("enc3 block 2", (17, 18, 19), 16, 256, 0),
    ("red3to2, lat2, upsampling", (20, 21), 32, 0, 4),
    ("smooth2", (22,), 32, 64, 0),
    ("red2to1, lat1, upsampling", (23, 24), 64, 0, 4),
    ("smooth1", (25,), 64, 32, 2),
    ("head, skip, features", (26,), 64, 32, 2),
)
NAMES = {-1: "x", **{layer: name for name, layers, *_ in GROUPS for layer in layers}}


def pieces(host: HostStem) -> dict[int, tuple[int, int]]:
    """For each layer: the bytes of its pieces in the stream, and the tiles of weights among them."""
    found: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for layer, _tap, _part, piece, _offset, size in host.records(S):
        total, tiles = found[layer]
        found[layer] = total + size, tiles + (size // 512 if piece == 0 else 0)
    return found


def run(host: HostStem, length: int) -> list[Banks]:
    inputs = make_inputs({"B": 1, "L": length, "S": S, "training": False}, Maker(0))
    host(inputs["x"], inputs["params"], count_banks=True)
    return host.banks()


def layer_table(host: HostStem, banks: list[Banks]) -> str:
    wavefronts: dict[int, int] = defaultdict(int)
    for entry in banks:
        wavefronts[entry.layer] += entry.wavefronts
    weights = pieces(host)
    lines = [
        "| part | weights, kB | HMMA | shared-memory wavefronts | SiLU | predicted clocks | share |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = []
    for name, layers, row_tiles, columns, barriers in GROUPS:
        size = sum(weights[layer][0] for layer in layers)
        hmma = sum(weights[layer][1] for layer in layers) * 2 * row_tiles
        shared = sum(wavefronts[layer] for layer in layers) + size // 128  # the weights' arrival writes too
        silu = columns * row_tiles * 16
        outputs = max(silu, 32_000)
        clocks = (
            max(hmma * HMMA_CLOCKS, shared)
            + max(silu / TANH_PER_CLOCK, outputs * EPILOGUE_INSTRUCTIONS / LANES)
            + BARRIER_CLOCKS * (barriers + size / 16384)
        )
        rows.append((name, size, hmma, shared, silu, clocks))
    total = [sum(row[i] for row in rows) for i in range(1, 6)]
    for name, size, hmma, shared, silu, clocks in rows:
        lines.append(
            f"| {name} | {size / 1000:.1f} | {hmma:,} | {shared:,} | {silu:,} | {clocks:,.0f} |"
            f" {clocks / total[4]:.0%} |"
        )
    size, hmma, shared, silu, clocks = total
    lines.append(
        f"| **sum** | {size / 1000:.1f} | {hmma:,} | {shared:,} | {silu:,} | {clocks:,.0f} ="
        f" {clocks / CLOCK * 1e6:.0f} us | 100% |"
    )
    waves = -(-B // MULTIPROCESSORS)
    useful = stem_macs(L, S) / (hmma * HMMA_MACS)
    lines.append("")
    lines.append(
        f"Of the multiplications that are done, {useful:.1%} belong to the model. At B = {B} each of {MULTIPROCESSORS}"
        f" multiprocessors computes {waves} samples in turn: predicted {waves * clocks / CLOCK * 1e3:.2f} ms (not"
        " measured)."
    )
    return "\n".join(lines)


def bank_table(banks: list[Banks]) -> str:
    """Accesses by kind and size; conflicts where there are any."""
    found: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0, 0])
    worst: dict[tuple[str, int], set[str]] = defaultdict(set)
    for entry in banks:
        key = entry.kind, entry.size
        for i, count in enumerate((entry.instructions, entry.wavefronts, entry.ideal)):
            found[key][i] += count
        if entry.wavefronts > entry.ideal:
            worst[key].add(f"{NAMES[entry.layer]}: {entry.wavefronts / entry.ideal:.2f}")
    what = {
        ("load", 2): "x, for the first layer's A operands", ("load", 4): "coarse rows, for upsampling",
        ("load", 8): "shifts; skip path", ("load", 16): "weights (B operands); kept levels; features",
        ("store", 2): "x", ("store", 4): "outputs of a layer", ("store", 16): "zeros around it; kept levels",
        ("ldmatrix", 16): "A operands of convolutions",
    }  # fmt: skip
    lines = [
        "| access | of what | instructions | wavefronts | fewest possible | where more |",
        "|---|---|---|---|---|---|",
    ]
    for key, (instructions, wavefronts, ideal) in sorted(found.items()):
        kind, size = key
        where = "; ".join(sorted(worst[key])) or "nowhere"
        counts = f"{instructions:,} | {wavefronts:,} | {ideal:,}"
        lines.append(f"| {kind}, {size} bytes | {what[key]} | {counts} | {where} |")
    return "\n".join(lines)


def main() -> None:
    host = HostStem()
    print(layer_table(host, run(host, L)), "\n\n", bank_table(run(host, FULL)), sep="")


if __name__ == "__main__":
    main()
