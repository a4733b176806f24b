"""Features of segments for probes: from an encoder, from the same encoder without training, and made by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from xmae_fast._optional import need
from xmae_fast.evaluation.detectors import pulse_feet
from xmae_fast.model.outputs import encode, output_shape
from xmae_fast.model.xmae import xMAE

_BANDS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)  # Hz


@torch.no_grad()
def embed_segments(
    model: xMAE, segments: np.ndarray | Tensor | Iterable, *, output: str = "pooled", batch_size: int = 128
) -> np.ndarray:
    """Features of PPG segments, with the statistics of evaluation and without dropout.

    Args:
        model: with a PPG encoder.
        segments: [S, L], scaled to [-1, 1] per segment; or batches of such segments, as a loader gives them
            (dictionaries with "ppg", or tensors). A loader that shuffles gives features in shuffled order.
        output: "pooled", the mean over the encoder's tokens, which pretraining trains; "projected", `ppg_embedding`,
            the same through a projection that pretraining never trains; "tokens", all tokens.
        batch_size: segments at a time, where `segments` is an array.

    Returns:
        [S, D], [S, proj_dim] or [S, N, D] float32.

    Raises:
        ValueError: an argument is wrong; the message names it.
    """
    output_shape(model, output)
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    place = model.mask_token
    if isinstance(segments, np.ndarray | Tensor):
        whole = torch.as_tensor(segments)
        if whole.dim() != 2:
            raise ValueError(f"segments: expected shape [S, {model.cfg.seq_len}], got {list(whole.shape)}")
        segments = whole.split(batch_size)
    parts = []
    for batch in segments:
        ppg = batch["ppg"] if isinstance(batch, Mapping) else batch
        parts.append(encode(model, ppg.to(place.device, place.dtype), output).float().cpu().numpy())
    if not parts:
        raise ValueError("segments: expected at least one, got none")
    return np.concatenate(parts)


def random_twin(model: xMAE, seed: int = 77) -> xMAE:
    """A model of the same configuration with random weights (and BatchNorm statistics 0 and 1), in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return xMAE(model.cfg, impl=model.impl).to(model.mask_token).eval()


def hand_made_features(ppg: np.ndarray, fs: float) -> np.ndarray:
    """Features as a textbook has them.

    They are mean, standard deviation (SD), skewness, kurtosis, and the mean absolute first and second difference; the
    logarithm of the power in nine bands from 0 to 12 Hz; and of the pulses the rate [1/min], the SD of the intervals
    [s], the median and SD of the crest time [s], which is the time from the foot to the highest point within 0.45 s,
    and the median rise. Where no pulses are found, their features are the mean of the other segments.

    Args:
        ppg: [S, L].
        fs: Hz.

    Returns:
        [S, 20] float32.

    Raises:
        ImportError: SciPy is missing.
    """
    x = ppg.astype(np.float64)
    centred = x - x.mean(1, keepdims=True)
    sd = centred.std(1) + 1e-9
    moments = [x.mean(1), sd, (centred**3).mean(1) / sd**3, (centred**4).mean(1) / sd**4]
    changes = [np.abs(np.diff(x, n, axis=1)).mean(1) for n in (1, 2)]
    frequencies, power = need("scipy.signal", "Features made by hand need", "eval").periodogram(centred, fs, axis=1)
    bands = [
        np.log(power[:, (frequencies >= low) & (frequencies < high)].mean(1) + 1e-9) for low, high in pairwise(_BANDS)
    ]
    reach = round(0.45 * fs)
    pulses = np.full((len(x), 5), np.nan)
    for row, feet in enumerate(pulse_feet(ppg, fs)):
        starts = np.rint(feet * fs).astype(np.int64)
        starts = starts[(starts >= 0) & (starts + reach <= x.shape[1])]
        if len(starts) >= 2:
            beats = x[row, starts[:, None] + np.arange(reach)]
            crest, gaps = beats.argmax(1) / fs, np.diff(feet)
            rise = beats.max(1) - beats[:, 0]
            pulses[row] = 60 / gaps.mean(), gaps.std(), np.median(crest), crest.std(), np.median(rise)
    missing = np.isnan(pulses)
    means = np.where(missing, 0, pulses).sum(0) / np.maximum((~missing).sum(0), 1)
    return np.column_stack([*moments, *changes, *bands, np.where(missing, means, pulses)]).astype(np.float32)
