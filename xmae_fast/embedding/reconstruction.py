"""ECG from PPG: the ECG that a pretrained model reconstructs, with chosen visible spans, and a picture of it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from xmae_fast._files import check_replaceable, is_picture, write_picture
from xmae_fast._optional import new_figure
from xmae_fast.embedding.preprocess import normalise, prepare_ppg
from xmae_fast.model.modes import evaluating
from xmae_fast.model.pretrained import recipe_of
from xmae_fast.model.recipe import Recipe
from xmae_fast.model.xmae import xMAE
from xmae_fast.signals.clean import clean_ecg, fill_missing, resample

Spans = Iterable[tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """B segments of L samples, scaled to [-1, 1].

    Attributes:
        reconstructed: [B, L] float32, the ECG that the model gives, hidden or not.
        visible: [L] bool, the samples of the ECG that the model was shown.
        ppg: [B, L], the PPG that the model was given.
        ecg: [B, L], the true ECG, or None.
        fs: Hz.
    """

    reconstructed: np.ndarray
    visible: np.ndarray
    ppg: np.ndarray
    ecg: np.ndarray | None
    fs: float

    @property
    def error(self) -> np.ndarray | None:
        """[B] mean squared error over hidden samples; None without ECG or hidden samples."""
        if self.ecg is None or self.visible.all():
            return None
        return ((self.reconstructed - self.ecg)[:, ~self.visible] ** 2).mean(1)

    def draw(self, path: str | os.PathLike[str], rows: Iterable[int] = (0,)) -> None:
        """Write a picture: for each row the PPG above, the ECG and its reconstruction below.

        Args:
            path: of the picture (.png).
            rows: numbers of the segments that are drawn.

        Raises:
            ValueError: there is no such row.
            FileExistsError: `path` is there and is no picture of xmae_fast.
            ImportError: matplotlib is missing.
        """
        check_replaceable(path, is_picture, "a picture of xmae-fast", "path")
        rows = list(rows)
        if not rows or not all(0 <= row < len(self.ppg) for row in rows):
            raise ValueError(f"rows: expected some of 0 to {len(self.ppg) - 1}, got {rows}")
        figure = _draw(self, rows)
        write_picture(figure, path, "path")


def reconstruct(
    model: xMAE,
    ppg,
    ecg=None,
    *,
    visible: Spans | None = None,
    fs: float | None = None,
    recipe: Recipe | None = None,
) -> Reconstruction:
    """Reconstruct the ECG of PPG segments by a pretrained model.

    Args:
        model: with a bridge.
        ppg: [L] or [B, L], scaled to [-1, 1] per segment; or, with `fs`, recorded: [n] or [B, n], n = segment_s * fs.
        ecg: of the same shape. It is needed for visible spans, and to compare with.
        visible: spans (begin, end) in seconds of the ECG that the model is shown; a patch is shown if its middle lies
            in one of them. None shows nothing. Pretraining showed one run of a fifth of the patches, so that the model
            was not trained for other spans, nor for none.
        fs: Hz of both signals as recorded; None if they are prepared.
        recipe: for the PPG, in place of the model's.

    Raises:
        ValueError, TypeError: an argument is wrong; the message names it.
    """
    if not model.has_bridge:
        raise ValueError("model: expected one with a bridge (source='ppg+ecg', use_cross_bridge=True), got one without")
    recipe, cfg = recipe or recipe_of(model), model.cfg
    ppg = _prepared("ppg", ppg, fs, recipe)
    truth = None if ecg is None else _prepared("ecg", ecg, fs, recipe)
    if truth is not None and truth.shape != ppg.shape:
        raise ValueError(f"ecg: expected the shape of ppg, {list(ppg.shape)}, got {list(truth.shape)}")
    shown = _visible_patches(visible, cfg.num_patches, cfg.patch_seconds)
    if shown.any() and truth is None:
        raise ValueError("visible: expected none without ecg, got spans")
    place, B = model.mask_token, len(ppg)
    order = torch.from_numpy(np.argsort(~shown, kind="stable")).to(place.device)  # kept ids ascending, then masked
    keep, restore = order[: int(shown.sum())].expand(B, -1), torch.argsort(order).expand(B, -1)
    ecg_in = np.zeros_like(ppg) if truth is None else truth
    with torch.no_grad(), evaluating(model):
        out = model(
            *(torch.from_numpy(x).to(place.device, place.dtype) for x in (ppg, ecg_in)),
            ids_keep_ecg=keep.contiguous(), ids_restore_ecg=restore.contiguous(), return_embeddings=False,
            return_recon=True,
        )  # fmt: skip
    found = out["ecg_reconstructed"][:, 0].float().cpu().numpy()
    return Reconstruction(found, shown.repeat(cfg.patch_len), ppg, truth, float(cfg.sampling_freq))


def _prepared(name: str, signal, fs: float | None, recipe: Recipe) -> np.ndarray:
    """A signal as the model takes it, [B, L] float32 in [-1, 1]."""
    if isinstance(signal, torch.Tensor):
        signal = signal.detach().cpu().numpy()
    x = np.atleast_2d(np.asarray(signal, np.float64 if fs is not None else np.float32))
    wanted = recipe.samples if fs is None else round(recipe.segment_s * fs)
    if x.ndim != 2 or x.shape[1] != wanted or not len(x):
        raise ValueError(f"{name}: expected shape [{wanted}] or [B, {wanted}], got {list(np.shape(signal))}")
    if fs is None:
        if not (np.abs(x) <= 1.01).all():
            got = f"{x.min():.4g} to {x.max():.4g}"
            raise ValueError(f"{name}: expected values in [-1, 1] (or fs=, and it is prepared), got {got}")
        return np.ascontiguousarray(x)
    if name == "ppg":
        prepared = prepare_ppg(x, fs, recipe, quality=False)
        scaled, usable = prepared.ppg, prepared.usable
    else:
        scaled, usable = normalise(resample(clean_ecg(fill_missing(x)[0], fs), recipe.samples), recipe.normalize_dtype)
    if not usable.all():
        raise ValueError(f"{name}: expected signals that vary, row {int(np.argmin(usable))} is constant or empty")
    return scaled


def _visible_patches(spans: Spans | None, N: int, patch_s: float) -> np.ndarray:
    """[N] bool: the patches whose middle lies in a span."""
    shown, middle = np.zeros(N, bool), (np.arange(N) + 0.5) * patch_s
    for span in spans or ():
        begin, end = span if np.shape(span) == (2,) else (math.nan, math.nan)
        if not 0 <= begin < end <= N * patch_s + 1e-9:
            raise ValueError(f"visible: expected (begin, end) within 0 to {N * patch_s:g} s, got {span!r}")
        shown |= (middle >= begin) & (middle < end)
    return shown


def _draw(found: Reconstruction, rows: list[int]):
    figure = new_figure(11, 0.6 + 2.9 * len(rows), "Pictures need", "embed")
    time, error = np.arange(found.ppg.shape[1]) / found.fs, found.error
    grid = figure.add_gridspec(2 * len(rows), 1, height_ratios=[1, 1.6] * len(rows))
    edges = np.flatnonzero(np.diff(found.visible, prepend=False, append=False)).reshape(-1, 2)
    for i, row in enumerate(rows):
        top, bottom = figure.add_subplot(grid[2 * i]), figure.add_subplot(grid[2 * i + 1])
        top.plot(time, found.ppg[row], color="#009E73", lw=1.1)
        top.set_ylabel("PPG", color="#009E73")
        top.tick_params(labelbottom=False)
        if found.ecg is not None:
            bottom.plot(time, found.ecg[row], color="#444444", lw=1.0, label="ECG")
        hidden = np.where(found.visible, np.nan, found.reconstructed[row])
        bottom.plot(time, hidden, color="#0072B2", lw=1.5, label="reconstructed where hidden")
        for begin, end in edges:
            bottom.axvspan(begin / found.fs, end / found.fs, color="#f0e6d2", lw=0, zorder=0)
        bottom.set_ylabel("ECG")
        for axis in (top, bottom):
            axis.set_xlim(0, time[-1])
            axis.set_ylim(-1.15, 1.15)
        told = f"{found.visible.mean():.0%} of the ECG shown to the model (shaded)"
        top.set_title(told if error is None else f"{told}; MSE where hidden {error[row]:.4f}", loc="left", fontsize=10)
    bottom.set_xlabel("time [s]; both signals scaled to [-1, 1]")
    place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2}
    figure.axes[0].legend(*bottom.get_legend_handles_labels(), ncols=2, frameon=False, fontsize=9, **place)
    return figure
