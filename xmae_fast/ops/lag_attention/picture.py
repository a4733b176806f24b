"""Draws lag.svg, the picture in README.md: `python -m xmae_fast.ops.lag_attention.picture`."""

from __future__ import annotations

from pathlib import Path

import torch

from xmae_fast.ops.lag_attention.reference import probabilities
from xmae_fast.ops.lag_attention.tables import gather_bias, gaussian_table, lag_seconds, window_table

NUM_PATCHES, PATCH_SECONDS = 12, 0.1


def draw(path: Path) -> None:
    """The pairs that share a lag, two tables, and the attention that a table alone makes."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "xmae_fast", "axes.titlesize": 10, "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    lags = lag_seconds(NUM_PATCHES, PATCH_SECONDS, dtype=torch.float64)
    position = torch.arange(NUM_PATCHES)[None]
    gaussian = gaussian_table(lags, torch.tensor([0.3]).double(), torch.tensor([0.12]).log().double())
    window = window_table(lags, 0.1, 0.4, 1)
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")

    per_pair = gather_bias(lags[None], position, position)[0, 0]
    image = axes[0].imshow(per_pair, cmap="RdBu_r", vmin=-1.1, vmax=1.1)
    axes[0].set(title="lag of every pair [s]", xlabel="PPG token (key)", ylabel="ECG token (query)")
    figure.colorbar(image, ax=axes[0], shrink=0.85)

    axes[1].plot(lags, gaussian[0], "o-", label="gaussian, center 0.3 s, width 0.12 s")
    axes[1].step(lags, window[0].clamp(min=-10), where="mid", color="C3", label="window(0.1, 0.4): 0, else $-\\infty$")
    axes[1].set(
        title="the table: 2N - 1 numbers per head", xlabel="lag [s]", ylabel="bias added to the score", ylim=(-10.4, 4)
    )
    axes[1].legend(loc="upper right", fontsize=8, framealpha=1)

    zero = torch.zeros(1, 1, NUM_PATCHES, 4, dtype=torch.float64)
    attention = probabilities(zero, zero, gather_bias(gaussian, position, position))[0, 0]
    image = axes[2].imshow(attention, cmap="viridis", vmin=0)
    axes[2].set(title="gaussian: attention on equal scores", xlabel="PPG token (key)", ylabel="ECG token (query)")
    figure.colorbar(image, ax=axes[2], shrink=0.85)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    draw(Path(__file__).with_name("lag.svg"))
