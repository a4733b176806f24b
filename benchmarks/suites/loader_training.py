"""How long training waits for its data: the same steps with batches at hand and with a loader."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.harness.contest import BASELINE, OURS, PLAIN, Contestant, Group
from benchmarks.harness.context import MASK_RATIO, Context
from benchmarks.harness.segment_files import SegmentFiles, segment_files
from benchmarks.harness.timing import Run
from xmae_fast import masked_mse, random_masking, xMAE
from xmae_fast.data import PlainSegmentDataset, SegmentLoader
from xmae_fast.testing import Error

STEPS = 4
Batches = Iterable[dict[str, Tensor]]


def groups(context: Context) -> Iterator[Group]:
    """Steps at B = 64 on a CPU, where the step and the loader share the processor; 512 on a GPU."""
    B = 8 if context.quick else 512 if context.device.type == "cuda" else 64
    with segment_files(context, STEPS * B) as files:
        made = {
            "batches at hand": (PLAIN, lambda: _at_hand(files, B)),
            "DataLoader, item by item, 0 workers": (BASELINE, lambda: _by_item(files, B)),
            "SegmentLoader": (OURS, lambda: SegmentLoader(files.published, B, drop_last=True)),
        }
        yield Group(
            f"loader: {STEPS} training steps, B = {B}, with their data",
            [_contestant(context, name, role, make) for name, (role, make) in made.items()],
            items=STEPS,
            unit="steps",
        )


def _contestant(context: Context, name: str, role: str, make: Callable[[], Batches]) -> Contestant:
    spent = {"waiting": 0.0, "all": 0.0}

    def build() -> Run:
        torch.manual_seed(0)
        model = xMAE(context.cfg).to(context.device).train()
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        batches = make()

        def run(i: int) -> float:
            began = time.perf_counter()
            for batch in _timed(batches, spent):
                ppg, ecg = batch["ppg"].to(context.device), batch["ecg"].to(context.device)
                mask = random_masking(len(ppg), context.cfg.num_patches, MASK_RATIO, device=context.device)
                with context.autocast():
                    out = model(ppg, ecg, ids_keep_ecg=mask.ids_keep, ids_restore_ecg=mask.ids_restore)
                    loss = masked_mse(out["ecg_reconstructed"], ecg, out["seq_mask_used_ecg"])
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            value = float(loss.detach())
            spent["all"] += time.perf_counter() - began
            return value

        return run

    def check(run: Run) -> list[Error]:
        loss = run(0)
        if not 0 < loss < 10:
            raise AssertionError(f"loss {loss}")
        return []

    def remark() -> str:
        share = spent["waiting"] / spent["all"]
        return f"waited for data {share:.2%} of the time, the start of each pass included"

    return Contestant(name, build, check, role, remark=remark)


def _timed(batches: Batches, spent: dict[str, float]) -> Iterator[dict[str, Tensor]]:
    """The batches; the time until each is there is added to what was spent waiting."""
    iterator, end = iter(batches), object()
    while True:
        began = time.perf_counter()
        batch = next(iterator, end)
        spent["waiting"] += time.perf_counter() - began
        if batch is end:
            return
        yield batch


def _at_hand(files: SegmentFiles, B: int) -> Batches:
    return list(SegmentLoader(files.published, B, drop_last=True))


def _by_item(files: SegmentFiles, B: int) -> Batches:
    return DataLoader(PlainSegmentDataset(files.published), B, shuffle=True, drop_last=True)
