"""`EmbeddingTransformer`: embeddings as a transformer of scikit-learn, which passes the checks of that library.

    from sklearn.pipeline import make_pipeline
    from xmae_fast.sklearn import EmbeddingTransformer

    pipeline = make_pipeline(EmbeddingTransformer("xmae-sim-base", fs=125), StandardScaler(), Ridge())
    pipeline.fit(X, age)      # X [R, T], or a list of recordings of any lengths

Nothing else of xmae_fast imports this module, which imports scikit-learn.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from xmae_fast._optional import need
from xmae_fast.embedding.embedder import Embedder, mean_over_windows
from xmae_fast.embedding.frames import feature_names
from xmae_fast.embedding.preprocess import normalise
from xmae_fast.model.outputs import output_shape
from xmae_fast.model.recipe import Recipe
from xmae_fast.model.xmae import xMAE
from xmae_fast.signals.clean import resample

need("sklearn", "xmae_fast.sklearn needs", "eval")

from sklearn.base import BaseEstimator, TransformerMixin  # noqa: E402
from sklearn.utils.validation import check_is_fitted  # noqa: E402

try:
    from sklearn.utils.validation import validate_data
except ImportError:
    raise ImportError("xmae_fast.sklearn needs scikit-learn 1.6 or newer: pip install -U scikit-learn") from None

__all__ = ["EmbeddingTransformer"]

_LEAST_OF_CUBIC = 4  # samples; fewer are interpolated linearly
_OF_EMBEDDER = ("model", "fs", "output", "hop", "tail", "batch_size", "device", "precision", "recipe", "check")


class EmbeddingTransformer(TransformerMixin, BaseEstimator):
    """A row of features for each recording or window of PPG.

    There is nothing to learn: `fit` checks the arguments and loads the model. It can be cloned, pickled, searched over
    (`GridSearchCV` over `output`, say) and told by `set_output` to return tables of pandas.

    Args:
        model: as for `Embedder`: an xMAE, or what `from_pretrained` takes; None for "xmae-sim-base", with a warning.
        fs: Hz of the rows of X, which are recordings in any unit, NaN where nothing was recorded. They are cut into
            windows, which are prepared by the model's recipe; the features are the mean over the usable windows. None:
            each row is one window of the model's length (10 s), cleaned already, at any rate. It is only resampled, so
            that first and last samples coincide, and scaled to [-1, 1].
        output: "pooled", "projected" or "tokens" (one after another).
        hop, tail, batch_size, device, precision, recipe, check: as for `Embedder`.

    Attributes:
        n_features_in_: T of the X of `fit`; missing after a `fit` with recordings of unequal lengths.
        feature_names_in_: [T], where X was a table with names.
        n_features_out_: numbers of a row of features.
    """

    def __init__(
        self,
        model: xMAE | str | os.PathLike[str] | None = None,
        *,
        fs: float | None = None,
        output: str = "pooled",
        hop: float | None = None,
        tail: str = "drop",
        batch_size: int = 64,
        device: str | torch.device | None = None,
        precision: str | None = None,
        recipe: Recipe | None = None,
        check: bool = True,
    ) -> None:
        self.model = model
        self.fs = fs
        self.output = output
        self.hop = hop
        self.tail = tail
        self.batch_size = batch_size
        self.device = device
        self.precision = precision
        self.recipe = recipe
        self.check = check

    def fit(self, X: Any, y: Any = None) -> EmbeddingTransformer:
        """Check X and the arguments, and load the model.

        Args:
            X: [n, T], or with `fs` a list of n recordings [T] of any lengths. An array of another T than that of `fit`
                is refused in `transform`, as scikit-learn asks for; a list is not.
            y: not used.

        Raises:
            ValueError, TypeError: X or an argument is wrong; the message names it.
        """
        self._checked(X, first=True)
        model, _ = self._embedder()._ready()
        self.n_features_out_ = int(np.prod(output_shape(model, self.output)))
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Features of X, which `fit` describes.

        Returns:
            [n, n_features_out_] float32. NaN for a row without a usable window: one that is constant or empty.

        Raises:
            ValueError, TypeError: X or an argument is wrong; a recording is shorter than a window.
        """
        X = self._checked(X, first=False)
        embedder = self._embedder()
        if self.fs is not None:
            return mean_over_windows(embedder(X), len(X))
        _, recipe = embedder._ready()
        ppg, usable = normalise(_at_length(X, recipe.samples), recipe.normalize_dtype)
        found = embedder.segments(ppg).reshape(len(X), -1)
        found[~usable | (np.ptp(X, axis=1) == 0)] = np.nan
        return found

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """[F] names of the features, "xmae_pooled_0" and so on.

        Raises:
            NotFittedError: before `fit`.
        """
        check_is_fitted(self, "n_features_out_")
        return np.array(feature_names(self.output, self.n_features_out_), dtype=object)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.allow_nan = self.fs is not None
        assert tags.transformer_tags is not None  # of TransformerMixin
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: without the Embedder, which is made again from the arguments."""
        state: dict[str, Any] = super().__getstate__()  # pyright: ignore[reportAssignmentType]
        return {name: value for name, value in state.items() if name != "_made"}

    def _embedder(self) -> Embedder:
        """The Embedder of the arguments as they are now; it keeps the model that it has loaded."""
        given = tuple(getattr(self, name) for name in _OF_EMBEDDER)
        before, embedder = getattr(self, "_made", ((), None))
        if embedder is None or any(a is not b for a, b in zip(before, given, strict=True)):
            options = {**dict(zip(_OF_EMBEDDER, given, strict=True)), "quality": False}
            self._made = given, (embedder := Embedder(**options))
        return embedder

    def _checked(self, X: Any, first: bool) -> Any:
        """X as [n, T] or as a list of recordings; `first`: in `fit`, which notes T."""
        if _is_ragged(X):
            if self.fs is None:
                raise ValueError("X: expected rows of one length, got other lengths; recordings need fs=Hz")
            return [np.asarray(recording) for recording in X]
        least = 1 if not first and hasattr(self, "n_features_in_") else 2
        return validate_data(
            self, X, reset=first, dtype=[np.float32, np.float64], ensure_min_features=least,
            ensure_all_finite=True if self.fs is None else "allow-nan",
        )  # fmt: skip


def _is_ragged(X: Any) -> bool:
    """Whether X is a list of arrays [T] of different lengths."""
    if not isinstance(X, Sequence) or isinstance(X, str):
        return False
    shapes = {np.shape(row) for row in X if isinstance(row, np.ndarray | torch.Tensor | list | tuple)}
    return len(shapes) > 1 and all(len(shape) == 1 for shape in shapes)


def _at_length(x: np.ndarray, samples: int) -> np.ndarray:
    """Rows [n, T] at another number of samples: [n, samples], first on first and last on last."""
    if x.shape[1] >= _LEAST_OF_CUBIC:
        return resample(x, samples)
    places = np.linspace(0, x.shape[1] - 1, samples)
    return np.stack([np.interp(places, np.arange(x.shape[1]), row) for row in x])
