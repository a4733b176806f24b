"""Reading ahead, for segments that are not in the page cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from xmae_fast.data.loader import SegmentLoader

_COLD = 0.9  # share of segments in the page cache below which reading ahead is asked for
_SAMPLE = 256


class Hints:
    """Asks for segments to be read ahead, where the page cache does not hold them already: span by span, and the next
    span bit by bit while this one is consumed, in the order of the file."""

    def __init__(self, loader: SegmentLoader, order: np.ndarray) -> None:
        self.segments, self.order, self.batch_size = loader.segments, order, loader.batch_size
        sample = order[:: max(1, len(order) // _SAMPLE)]
        self.cold = len(order) > 0 and self.segments.resident(sample) < _COLD
        blocks = loader.block_size * loader.window // loader.world_size if loader.shuffle == "blocks" else 0
        self.span = max(blocks, 4 * self.batch_size)
        self.current = -1  # number of the span that was asked for altogether
        self.ahead = order[:0]  # what is still to be asked for of the next one

    def before(self, number: int) -> None:
        """Before batch `number` is read."""
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
