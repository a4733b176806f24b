"""`Embedder`: recordings of any length and rate to embeddings, window by window; a scikit-learn transformer, too."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from xmae_fast.embedding import checks
from xmae_fast.embedding.batches import encode_batches
from xmae_fast.embedding.preprocess import Prepared, prepare_ppg
from xmae_fast.embedding.windows import Windows, as_recordings, check_windowing
from xmae_fast.model.outputs import output_shape
from xmae_fast.model.pretrained import from_pretrained, recipe_of
from xmae_fast.model.recipe import Recipe
from xmae_fast.model.xmae import xMAE


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of W windows.

    embeddings: float32 [W, D] ("pooled"), [W, proj_dim] ("projected") or [W, N, D] ("tokens"); NaN for a window that is
        constant or empty.
    times: [W] seconds from the recording's first sample to the window's. record: [W] number of the recording.
    quality: [W], at most 1: template matching, by which pretraining's shards were filtered (0.9); NaN where there are
        fewer than four pulses, or quality=False. pulse_rate: [W] 1/min, NaN likewise.
    issues: [W] bool each: "unusable", "missing", "flat", "clipped".
    output, segment_s: what was computed, of windows of which length. threshold: the quality that pretraining asked for.
    unused_s: seconds that no window reached, of all recordings. seconds: what was spent, "prepare" and "encode".
    """

    embeddings: np.ndarray
    times: np.ndarray
    record: np.ndarray
    quality: np.ndarray
    pulse_rate: np.ndarray
    issues: dict[str, np.ndarray]
    output: str
    segment_s: float
    threshold: float
    unused_s: float
    seconds: dict[str, float]

    def __len__(self) -> int:
        return len(self.times)

    def good(self, quality: float | None = None) -> np.ndarray:
        """[W] bool: usable windows whose quality is known and reaches `quality` (None: `threshold`)."""
        return ~self.issues["unusable"] & (self.quality >= (self.threshold if quality is None else quality))


class Embedder:
    """Recordings of PPG to embeddings: cut into windows; clean, judge, resample, normalise each; encode in batches.

    Args:
        model: an xMAE with a PPG encoder, or what `from_pretrained` takes. Its recipe is followed.
        fs: Hz of the recordings, unless each call says so.
        output: "pooled", the mean over the encoder's tokens, which pretraining trains; "projected", `ppg_embedding`,
            which passes through a projection that gets no gradient in pretraining (random unless it was trained
            otherwise); "tokens", all tokens.
        hop: seconds from window to window; None: their length, side by side. The length is the model's own.
        tail: "drop" leaves out an end that fills no window, and `unused_s` tells; "align" adds a window that ends with
            the recording.
        quality: whether to judge windows; False saves time.
        batch_size: windows at a time.
        device: to move the model to; None: where it is. autocast: torch.bfloat16 or float16 for the encoder.
        recipe: instead of the model's.
        check: warn (`SignalWarning`) of what looks wrong: flat, clipped or missing signal, implausible rate, pulses
            upside down, embeddings that are all the same.

    Call it with recordings, `segments` with segments that are prepared already; `transform` is scikit-learn's.
    Arguments are looked at when first used.
    """

    def __init__(
        self,
        model: xMAE | str | os.PathLike[str],
        *,
        fs: float | None = None,
        output: str = "pooled",
        hop: float | None = None,
        tail: str = "drop",
        quality: bool = True,
        batch_size: int = 64,
        device: str | torch.device | None = None,
        autocast: torch.dtype | None = None,
        recipe: Recipe | None = None,
        check: bool = True,
    ) -> None:
        self.model, self.fs, self.output, self.hop, self.tail = model, fs, output, hop, tail
        self.quality, self.batch_size, self.device, self.autocast = quality, batch_size, device, autocast
        self.recipe, self.check = recipe, check
        self._loaded: xMAE | None = None

    def __call__(self, signal, fs: float | None = None) -> Embeddings:
        """Embed recordings.

        Args:
            signal: [T], or [R, T], or a list of R arrays [T]; any unit; NaN where nothing was recorded.
            fs: Hz.

        Raises:
            ValueError, TypeError: naming the argument, also for a recording shorter than a window.
            ImportError: SciPy is missing.
        """
        model, recipe = self._ready()
        fs = self.fs if fs is None else fs
        if fs is None:
            raise ValueError("fs: expected the recording's rate in Hz (or Embedder(..., fs=...)), got None")
        windows = Windows(as_recordings(signal), fs, recipe, self.hop, self.tail)
        prepared: list[Prepared] = []
        spent, began = 0.0, time.perf_counter()

        def batches() -> Iterator[tuple[None, np.ndarray]]:
            nonlocal spent
            for first in range(0, len(windows), self.batch_size):
                since = time.perf_counter()
                items = np.arange(first, min(first + self.batch_size, len(windows)))
                prepared.append(prepare_ppg(windows.cut(items), fs, recipe, quality=self.quality))
                spent += time.perf_counter() - since
                yield None, prepared[-1].ppg

        out = np.empty((len(windows), *output_shape(model, self.output)), np.float32)
        done = 0
        for _, features in encode_batches(model, batches(), self.output, self.autocast):
            out[done : done + len(features)] = features
            done += len(features)
        elapsed = time.perf_counter() - began
        about = Prepared(np.empty(0), *(np.concatenate(parts) for parts in list(zip(*prepared, strict=True))[1:]))
        out[~about.usable] = np.nan
        if self.check:
            problems = checks.signal_problems(about, fs, self.quality)
            checks.warn_all([*problems, *checks.embedding_problems(out, about.usable)])
        return Embeddings(
            out, windows.times, windows.record, about.quality, about.pulse_rate, checks.issues_of(about), self.output,
            recipe.segment_s, recipe.quality_threshold, float(windows.unused_s.sum()),
            {"prepare": spent, "encode": elapsed - spent},
        )  # fmt: skip

    def segments(self, ppg) -> np.ndarray:
        """Embed segments that are prepared already, such as those of shards: [S, L], scaled to [-1, 1] each -> float32
        [S, D], [S, proj_dim] or [S, N, D]. ValueError for another shape."""
        model, _ = self._ready()
        if isinstance(ppg, torch.Tensor):
            ppg = ppg.detach().cpu().numpy()
        ppg = np.ascontiguousarray(ppg, np.float32)
        if ppg.ndim != 2 or ppg.shape[1] != model.cfg.seq_len:
            raise ValueError(f"segments: expected shape [S, {model.cfg.seq_len}], got {list(ppg.shape)}")
        out = np.empty((len(ppg), *output_shape(model, self.output)), np.float32)
        done = 0
        batches = ((None, ppg[first : first + self.batch_size]) for first in range(0, len(ppg), self.batch_size))
        for _, features in encode_batches(model, batches, self.output, self.autocast):
            out[done : done + len(features)] = features
            done += len(features)
        if self.check and len(ppg):
            problems = checks.segment_problems(ppg)
            checks.warn_all([*problems, *checks.embedding_problems(out, np.ones(len(ppg), bool))])
        return out

    def fit(self, X=None, y=None) -> Embedder:
        """Learns nothing; checks the arguments."""
        self._ready()
        return self

    def transform(self, X) -> np.ndarray:
        """Rows of features for scikit-learn: X [S, T], each row a recording at `fs` Hz -> float32 [S, F]. A row of
        several windows gives the mean over those that are usable; tokens are laid out one after the other."""
        if self.fs is None:
            raise ValueError("fs: expected Embedder(..., fs=Hz of the rows), got None")
        if np.ndim(X) != 2:
            raise ValueError(f"X: expected shape [S, T], a recording in each row, got {list(np.shape(X))}")
        found = self(X)
        rows = found.embeddings.reshape(len(found), -1)
        weights = ~found.issues["unusable"]
        sums = np.zeros((len(X), rows.shape[1]))
        np.add.at(sums, found.record[weights], rows[weights])
        counts = np.bincount(found.record[weights], minlength=len(X))
        with np.errstate(invalid="ignore"):
            return (sums / counts[:, None]).astype(np.float32)

    def fit_transform(self, X, y=None) -> np.ndarray:
        """`transform`: there is nothing to fit."""
        return self.fit(X, y).transform(X)

    def get_feature_names_out(self, input_features=None) -> np.ndarray:
        """[F] names: "xmae_pooled_0", ..."""
        count = int(np.prod(output_shape(self._ready()[0], self.output)))
        return np.array([f"xmae_{self.output}_{i}" for i in range(count)], dtype=object)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments, by name."""
        return {name: getattr(self, name) for name in inspect.signature(Embedder).parameters}

    def set_params(self, **params: Any) -> Embedder:
        """Change arguments; ValueError for one that there is not."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}")
            setattr(self, name, value)
        self._loaded = None
        return self

    def __sklearn_tags__(self):
        from sklearn.utils import Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type=None, target_tags=TargetTags(required=False), transformer_tags=TransformerTags(),
            requires_fit=False,
        )  # fmt: skip

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def _ready(self) -> tuple[xMAE, Recipe]:
        """The model, loaded and where it belongs, and its recipe. ValueError, TypeError for wrong arguments."""
        check_windowing(self.hop, self.tail)
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {self.batch_size!r}")
        if self._loaded is None:
            if isinstance(self.model, xMAE):
                model = self.model
            elif isinstance(self.model, str | os.PathLike):
                model = from_pretrained(self.model)
            else:
                got = type(self.model).__name__
                raise TypeError(f"model: expected an xMAE or what from_pretrained takes, got {got}")
            self._loaded = model if self.device is None else model.to(self.device)
        output_shape(self._loaded, self.output)
        recipe = self.recipe or recipe_of(self._loaded)
        if recipe.samples != self._loaded.cfg.seq_len:
            wanted = f"one with segments of {self._loaded.cfg.seq_len} samples, as the model takes them"
            raise ValueError(f"recipe: expected {wanted}, got {recipe.samples}")
        return self._loaded, recipe
