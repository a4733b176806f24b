"""The memory of batches, which is used again as soon as nobody holds it."""

import sys

import numpy as np
import torch


class BatchBuffers:
    """Pairs of float32 arrays [B, L], one for PPG and one for ECG.

    A pair is handed out again when no tensor that was made of it exists any more, so that a batch does not change for
    as long as it is kept. Pinned memory is allocated by torch, which knows when copies to a device are done.

    Args:
        batch_size: B.
        seq_len: L.
        pin_memory: whether the arrays are in page-locked memory.
    """

    def __init__(self, batch_size: int, seq_len: int, pin_memory: bool) -> None:
        self.shape, self.pin_memory = (batch_size, seq_len), pin_memory
        self.pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self.counted = getattr(sys, "_is_gil_enabled", lambda: True)()  # without the GIL counts are not exact

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        """A pair (PPG, ECG) that nobody holds, [B, L] each; its values are arbitrary."""
        if self.pin_memory:
            ppg, ecg = (torch.empty(self.shape, pin_memory=True).numpy() for _ in range(2))
            return ppg, ecg
        if not self.counted:
            ppg, ecg = np.empty((2, *self.shape), np.float32)
            return ppg, ecg
        for i in range(len(self.pairs)):
            ppg, ecg = self.pairs[i]
            if sys.getrefcount(ppg) == 3 and sys.getrefcount(ecg) == 3:  # the pair's, this variable's, the argument's
                return ppg, ecg
        pair = np.empty(self.shape, np.float32), np.empty(self.shape, np.float32)
        self.pairs.append(pair)
        return pair
