"""Which configuration of a Triton kernel a launch takes: the measured best one if there is one, else the first.

Nothing is measured unless asked for:

    with xmae_fast.tuning.tune():
        step(ppg, ecg)  # every kernel of the step tries its few configurations, once for each set of sizes

What was found is kept for this kind of GPU and this Triton in `$XDG_CACHE_HOME/xmae_fast/tuning` (or `~/.cache/...`)
and used from then on, in later processes too. A choice changes how sums are cut into blocks, so results may differ in
their last bits from untuned ones. Imports no Triton.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import re
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from xmae_fast._files import atomic_path
from xmae_fast.backend.errors import is_kernel_failure

_log = logging.getLogger("xmae_fast.tuning")
Config = Mapping[str, int]
_REPEATS = 7
_tables: dict[int, dict[str, dict[str, int]]] = {}  # by index of the device: kernel and key -> configuration
_tuning = False


def choose(
    kernel: str, key: tuple, candidates: Sequence[Config], device: torch.device, run: Callable[[Config], None]
) -> Config:
    """The configuration for a launch on a CUDA device.

    Args:
        kernel: the kernel's name.
        key: the sizes on which the best configuration depends.
        candidates: the configurations to choose from, best guess first.
        device: the GPU of the launch.
        run: launches the kernel with a configuration; it may be called often.

    Returns:
        One of `candidates`: the quickest one where it is known or `tune` is on, else the first.
    """
    table, name = _table(device), json.dumps([kernel, *key], default=str)
    found = table.get(name)
    if found is not None and found in candidates:
        return found
    if not _tuning or torch.cuda.is_current_stream_capturing():
        return candidates[0]
    times = {number: _time(run, config) for number, config in enumerate(candidates)}
    table[name] = dict(candidates[min(times, key=times.__getitem__)])
    return table[name]


@contextlib.contextmanager
def tune() -> Iterator[None]:
    """Within it, launches whose best configuration is not known yet measure it.

    What was found is written to `cache_file` when the block ends without an error. Nothing is measured while a CUDA
    graph is captured: run the function once eagerly within the block, then capture.
    """
    global _tuning
    before, _tuning = _tuning, True
    try:
        yield
    finally:
        _tuning = before
    for index, table in _tables.items():
        _save(cache_file(torch.device("cuda", index)), table)


def forget() -> None:
    """Forget the configurations that this process knows; files are read again when a launch needs them."""
    _tables.clear()


def cache_file(device: torch.device) -> Path:
    """The file of the best configurations for GPUs of the kind of `device`."""
    parts = torch.cuda.get_device_name(device), f"triton-{importlib.metadata.version('triton')}"
    name = re.sub(r"[^\w.-]+", "-", "-".join(parts))
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xmae_fast" / "tuning" / f"{name}.json"


def _table(device: torch.device) -> dict[str, dict[str, int]]:
    index = torch.cuda.current_device() if device.index is None else device.index
    if index not in _tables:
        _tables[index] = _load(cache_file(device))
    return _tables[index]


def _load(path: Path) -> dict[str, dict[str, int]]:
    try:
        table = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        warnings.warn(f"tuned configurations in {path} cannot be read and are not used: {error}", stacklevel=2)
        return {}
    _log.debug("read tuned configurations of Triton kernels from %s", path)
    return table if isinstance(table, dict) else {}


def _save(path: Path, table: Mapping[str, Config]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    merged = {**_load(path), **table}  # another process may have found others meanwhile
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(merged, indent=1, sort_keys=True) + "\n")


def _time(run: Callable[[Config], None], config: Config) -> float:
    """Median milliseconds of a launch; inf if the configuration does not fit this GPU."""
    try:
        run(config)
        run(config)
        torch.cuda.synchronize()
    except Exception as error:
        if not is_kernel_failure(error):
            raise
        return float("inf")
    times = []
    for _ in range(_REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run(config)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)
