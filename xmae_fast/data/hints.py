"""Asks the system to read segments ahead that are not in the page cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from xmae_fast.data.loader import SegmentLoader

_COLD = 0.9  # if the page cache holds less than this share of the segments, they are read ahead
_SAMPLE = 256  # segments that are looked up in the page cache


class Hints:
    """Asks the system to read segments ahead, if the page cache lacks a tenth or more of them.

    The order is divided into spans of several batches. The first span is asked for at once; each next span is asked for
    in parts, in the order of the file, while the batches of the span before it are read.

    Args:
        loader: gives the segments and the sizes of batches and blocks.
        order: [n], the numbers of the segments in the order in which they are read.
    """

    def __init__(self, loader: SegmentLoader, order: np.ndarray) -> None:
        self.segments, self.order, self.batch_size = loader.segments, order, loader.batch_size
        sample = order[:: max(1, len(order) // _SAMPLE)]
        self.cold = len(order) > 0 and self.segments.resident(sample) < _COLD
        blocks = loader.block_size * loader.window // loader.world_size if loader.shuffle == "blocks" else 0
        self.span = max(blocks, 4 * self.batch_size)
        self.current = -1  # the number of the last span that was asked for completely
        self.ahead = order[:0]  # the segments of the next span that were not asked for yet

    def before(self, number: int) -> None:
        """Is called before batch `number` is read, and asks for what comes after it."""
        if not self.cold:
            return
        span, at = divmod(number * self.batch_size, self.span)
        if span != self.current:
            self.segments.hint(self.ahead if span == self.current + 1 and self.current >= 0 else self._items(span))
            self.current, self.ahead = span, np.sort(self._items(span + 1))
        batches_left = max(1, (self.span - at) // self.batch_size)
        share = -(-len(self.ahead) // batches_left)
        self.segments.hint(self.ahead[:share])
        self.ahead = self.ahead[share:]

    def _items(self, span: int) -> np.ndarray:
        return self.order[span * self.span : (span + 1) * self.span]
