"""`Embedder`: embeddings of recordings of any length and rate, window by window; also a scikit-learn transformer."""

from __future__ import annotations

import inspect
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from xmae_fast._shipped import DEFAULT_MODEL
from xmae_fast.embedding import checks
from xmae_fast.embedding.batches import encode_batches
from xmae_fast.embedding.frames import feature_names, frame
from xmae_fast.embedding.precision import autocast_of, check_weights
from xmae_fast.embedding.preprocess import Prepared, prepare_ppg
from xmae_fast.embedding.windows import Windows, as_recordings, check_windowing
from xmae_fast.model.frozen import freeze_if_possible
from xmae_fast.model.outputs import output_shape
from xmae_fast.model.pretrained import from_pretrained, recipe_of
from xmae_fast.model.recipe import Recipe
from xmae_fast.model.xmae import xMAE

if TYPE_CHECKING:
    import pandas

NO_MODEL = (
    f"model: none was given, {DEFAULT_MODEL} is used: trained on simulated signals alone, for research (its card:"
    f" xmae_fast.pretrained_models()[{DEFAULT_MODEL!r}].card)"
)


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of W windows.

    Attributes:
        embeddings: [W, D] ("pooled"), [W, proj_dim] ("projected") or [W, N, D] ("tokens") float32; NaN for a window
            that is constant or empty.
        times: [W] seconds from the first sample of the recording to that of the window.
        record: [W] number of the recording.
        quality: [W], at most 1, by template matching, by which the shards of pretraining were filtered (0.9). NaN
            where there are fewer than four pulses, or with quality=False.
        pulse_rate: [W] 1/min, from the median interval between pulses; NaN where quality is.
        issues: [W] bool for each of "unusable", "missing", "flat", "clipped"; see `checks.issues_of`.
        output: "pooled", "projected" or "tokens".
        segment_s: seconds of a window.
        threshold: the quality that pretraining asked for.
        unused_s: seconds of all recordings that no window covers.
        seconds: time that was spent on "prepare" and on "encode".
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
        """[W] bool: usable windows whose quality is known and reaches `quality`; None for `threshold`."""
        return ~self.issues["unusable"] & (self.quality >= (self.threshold if quality is None else quality))

    def to_frame(self, subjects: Sequence[Any] | None = None) -> pandas.DataFrame:
        """A table of pandas with a row for each window.

        Args:
            subjects: [R], whose each recording is, in their order, for a column "subject".

        Returns:
            The index is "record" (number of the recording) and "time" (seconds). The columns are "subject" (if given),
            "quality", "pulse_rate", the findings of `issues` as truth values, and the numbers of the embedding as
            float32, named as by `Embedder.get_feature_names_out`.

        Raises:
            ImportError: pandas is missing.
            ValueError: `subjects` are too few.
        """
        columns = {"quality": self.quality, "pulse_rate": self.pulse_rate, **self.issues}
        if subjects is not None:
            recordings = int(self.record.max(initial=-1)) + 1
            if len(subjects) < recordings:
                raise ValueError(f"subjects: expected one for each of {recordings} recordings, got {len(subjects)}")
            columns = {"subject": np.asarray(subjects, dtype=object)[self.record], **columns}
        return frame(self.embeddings, self.output, columns, {"record": self.record, "time": self.times})


def mean_over_windows(found: Embeddings, recordings: int) -> np.ndarray:
    """Features of each recording, the mean over its usable windows: [R, F] float32, NaN where there is none."""
    rows = found.embeddings.reshape(len(found), -1)
    usable = ~found.issues["unusable"]
    sums = np.zeros((recordings, rows.shape[1]))
    np.add.at(sums, found.record[usable], rows[usable])
    counts = np.bincount(found.record[usable], minlength=recordings)
    with np.errstate(invalid="ignore"):
        return (sums / counts[:, None]).astype(np.float32)


class Embedder:
    """Embeds recordings of PPG: cuts them into windows, prepares each window, and encodes the windows in batches.

    Call it with recordings, and `segments` with segments that are prepared already; `transform` is scikit-learn's.
    Arguments are checked when they are first used.

    On a CPU a model that the Embedder has loaded itself stays frozen (see `xMAE.freeze`). Your own model is frozen
    while a call embeds its second and further batches, and is as it was afterwards: train it, and the next call embeds
    by the new weights. Call `model.freeze()` yourself where windows are embedded one by one.

    Args:
        model: an xMAE with a PPG encoder, or what `from_pretrained` takes; None for "xmae-sim-base", which comes with
            the package, with a warning that says so. Windows have the length that it takes; its
            recipe says how they are cleaned, judged, resampled and normalised.
        fs: Hz of the recordings; None if each call says so.
        output: "pooled", the mean over the encoder's tokens, which pretraining trains; "projected", `ppg_embedding`,
            which passes through a projection that gets no gradient in pretraining (its weights are random unless
            something else trained it); "tokens", all tokens.
        hop: seconds from window to window; None for their length, so that they lie side by side.
        tail: "drop" leaves out an end that fills no window, and `unused_s` tells how long it is; "align" adds a window
            that ends with the recording.
        quality: whether to judge windows; False saves time.
        batch_size: windows at a time.
        device: where the model is moved to; None leaves it where it is.
        autocast: torch.bfloat16 or torch.float16 for the encoder; None for the precision of its weights.
        precision: "bf16", which is autocast=torch.bfloat16; "float32", which also refuses a model of other weights;
            None leaves it to `autocast`. Embeddings come in float32 whatever the encoder computes in.
        recipe: in place of the model's.
        check: whether to warn (`SignalWarning`) of what looks wrong: flat, clipped or missing signal, an implausible
            rate, pulses upside down, embeddings that are all the same.
    """

    def __init__(
        self,
        model: xMAE | str | os.PathLike[str] | None = None,
        *,
        fs: float | None = None,
        output: str = "pooled",
        hop: float | None = None,
        tail: str = "drop",
        quality: bool = True,
        batch_size: int = 64,
        device: str | torch.device | None = None,
        autocast: torch.dtype | None = None,
        precision: str | None = None,
        recipe: Recipe | None = None,
        check: bool = True,
    ) -> None:
        self.model, self.fs, self.output, self.hop, self.tail = model, fs, output, hop, tail
        self.quality, self.batch_size, self.device, self.autocast = quality, batch_size, device, autocast
        self.precision, self.recipe, self.check = precision, recipe, check
        self._loaded: xMAE | None = None

    def __call__(self, signal, fs: float | None = None) -> Embeddings:
        """Embed recordings.

        Args:
            signal: [T], or [R, T], or a list of R arrays [T], in any unit; NaN where nothing was recorded.
            fs: Hz; None for that of the Embedder.

        Raises:
            ValueError, TypeError: an argument is wrong, or a recording is shorter than a window.
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
        for _, features in encode_batches(model, batches(), self.output, self._autocast()):
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
        """Embed segments that are prepared already, such as those of shards.

        Args:
            ppg: [S, L], each row scaled to [-1, 1].

        Returns:
            [S, D], [S, proj_dim] or [S, N, D] float32.

        Raises:
            ValueError: `ppg` has another shape.
        """
        model, _ = self._ready()
        if isinstance(ppg, torch.Tensor):
            ppg = ppg.detach().cpu().numpy()
        ppg = np.ascontiguousarray(ppg, np.float32)
        if ppg.ndim != 2 or ppg.shape[1] != model.cfg.seq_len:
            raise ValueError(f"segments: expected shape [S, {model.cfg.seq_len}], got {list(ppg.shape)}")
        out = np.empty((len(ppg), *output_shape(model, self.output)), np.float32)
        done = 0
        batches = ((None, ppg[first : first + self.batch_size]) for first in range(0, len(ppg), self.batch_size))
        for _, features in encode_batches(model, batches, self.output, self._autocast()):
            out[done : done + len(features)] = features
            done += len(features)
        if self.check and len(ppg):
            problems = checks.segment_problems(ppg)
            checks.warn_all([*problems, *checks.embedding_problems(out, np.ones(len(ppg), bool))])
        return out

    def fit(self, X=None, y=None) -> Embedder:
        """Check the arguments; there is nothing to learn."""
        self._ready()
        return self

    def transform(self, X) -> np.ndarray:
        """Features for scikit-learn.

        Args:
            X: [S, T], each row a recording at `fs` Hz.

        Returns:
            [S, F] float32. Where a row has several windows, it is the mean over the usable ones; tokens follow one
            another.

        Raises:
            ValueError: X has another shape, or the Embedder has no `fs`.
        """
        if self.fs is None:
            raise ValueError("fs: expected Embedder(..., fs=Hz of the rows), got None")
        if np.ndim(X) != 2:
            raise ValueError(f"X: expected shape [S, T], a recording in each row, got {list(np.shape(X))}")
        return mean_over_windows(self(X), len(X))

    def fit_transform(self, X, y=None) -> np.ndarray:
        """The same as `transform`, because there is nothing to fit."""
        return self.fit(X, y).transform(X)

    def get_feature_names_out(self, input_features=None) -> np.ndarray:
        """[F] names of the features, "xmae_pooled_0" and so on."""
        count = int(np.prod(output_shape(self._ready()[0], self.output)))
        return np.array(feature_names(self.output, count), dtype=object)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments by name, as scikit-learn asks for them."""
        return {name: getattr(self, name) for name in inspect.signature(Embedder).parameters}

    def set_params(self, **params: Any) -> Embedder:
        """Change arguments; ValueError for a name that is no argument."""
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

    def _autocast(self) -> torch.dtype | None:
        return autocast_of(self.precision, self.autocast)

    def _ready(self) -> tuple[xMAE, Recipe]:
        """The model on its device, and its recipe; ValueError or TypeError for wrong arguments."""
        check_windowing(self.hop, self.tail)
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {self.batch_size!r}")
        if self._loaded is None:
            if isinstance(self.model, xMAE):
                model = self.model
            elif self.model is None:
                warnings.warn(NO_MODEL, stacklevel=3)
                model = from_pretrained(DEFAULT_MODEL)
            elif isinstance(self.model, str | os.PathLike):
                model = from_pretrained(self.model)
            else:
                got = type(self.model).__name__
                raise TypeError(f"model: expected an xMAE or what from_pretrained takes, got {got}")
            self._loaded = model if self.device is None else model.to(self.device)
            if model is not self.model:  # nobody else has it, to write to its weights
                freeze_if_possible(model)
        self._autocast()
        check_weights(self.precision, self._loaded)
        output_shape(self._loaded, self.output)
        recipe = self.recipe or recipe_of(self._loaded)
        if recipe.samples != self._loaded.cfg.seq_len:
            wanted = f"one with segments of {self._loaded.cfg.seq_len} samples, as the model takes them"
            raise ValueError(f"recipe: expected {wanted}, got {recipe.samples}")
        return self._loaded, recipe
