"""What looks wrong with a recording, by some of its windows, and whether it is turned round."""

from __future__ import annotations

import numpy as np

from xmae_fast.embedding import checks
from xmae_fast.embedding.opening import Signal, cut_signal
from xmae_fast.embedding.preprocess import Prepared, prepare_ppg
from xmae_fast.embedding.windows import Windows
from xmae_fast.model.recipe import Recipe

_MOST = 64  # windows of a recording that are looked at
_HOPS = 4  # in a short recording, a window begins this many times in the length of one


def judge(signal: Signal, windows: Windows, recipe: Recipe, polarity: str) -> tuple[list[str], float]:
    """Look at a recording.

    Args:
        signal: the recording.
        windows: its windows, at least one.
        recipe: by which windows are prepared.
        polarity: "keep", "auto" or "flip".

    Returns:
        What looks wrong, a sentence each, and the sign by which the signal is to be multiplied.
    """
    cut = windows.cut(np.unique(np.linspace(0, len(windows) - 1, _MOST).astype(np.int64)))
    close = cut
    if len(cut) < checks.LEAST_WINDOWS:
        others, _ = cut_signal(signal, recipe, recipe.segment_s / _HOPS, "drop")
        close = others.cut(np.arange(min(len(others), _MOST)))

    def prepared(sign: float) -> tuple[Prepared, Prepared]:
        first = prepare_ppg(sign * cut, windows.fs, recipe)
        return first, first if close is cut else prepare_ppg(sign * close, windows.fs, recipe)

    sign, found = -1.0 if polarity == "flip" else 1.0, []
    own, typical = prepared(sign)
    if polarity == "auto" and checks.is_upside_down(typical):
        sign, found = -1.0, ["signal: it was upside down and is turned round"]
        own, typical = prepared(sign)
    remedy = "if so, --polarity flip turns it round"
    return found + checks.signal_problems(own, windows.fs, True, remedy, typical), sign
