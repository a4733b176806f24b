"""Preparation end to end, from raw recordings to packed shards, against neurokit2 one window at a time.

    python -m benchmarks.studies.prepare [--windows 2000] [--oracle-windows 100]

One process each, on simulated recordings with noise: PulseDB's .mat layout, a CSV and, where wfdb is installed, a WFDB
record. The time to start (importing neurokit2 takes seconds) is told apart, not in the ratio.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np

from benchmarks.studies.recording_files import FS, windows, write_csv, write_mat, write_wfdb
from xmae_fast._environment import cpu_name
from xmae_fast.data import prepare
from xmae_fast.preparation import apply_recipe

EACH = 500  # windows of a recording


def write(kind: str, folder: Path, count: int) -> None:
    """`count` windows in recordings of up to EACH."""
    folder.mkdir()
    for start in range(0, count, EACH):
        ppg, ecg = windows(1, min(EACH, count - start), seed=start)
        if kind == "PulseDB":
            write_mat(folder / f"p{start:06d}.mat", ppg, ecg, f"p{start:06d}")
        elif kind == "CSV":
            write_csv(folder / f"p{start:06d}.csv", ppg.ravel(), ecg.ravel())
        else:
            write_wfdb(folder, f"p{start:06d}", ppg.ravel()[::2], ecg.ravel())


def measure(kind: str, folder: Path, count: int, recipe: str) -> tuple[float, float]:
    """Seconds a window, and seconds before the first: what one window alone takes, in the best of two calls each."""
    alone, all_of_them = (min(call(kind, folder, n, recipe) for _ in range(2)) for n in (1, count))
    return (all_of_them - alone) / (count - 1), alone


def call(kind: str, folder: Path, count: int, recipe: str) -> float:
    """Seconds of one `prepare` in one process."""
    source = folder / f"{kind}_{count}"
    if not source.exists():
        write(kind, source, count)
    start = time.perf_counter()
    report = prepare(source, folder / "out", recipe=recipe, processes=1, overwrite=True)
    seconds = time.perf_counter() - start
    if report.errors or report.segments + sum(report.rejected.values()) != count:
        raise RuntimeError(report.describe())
    return seconds


def agreement(count: int) -> str:
    """How the recipes agree on `count` windows, in a line."""
    ppg, ecg = windows(-(-count // 10), 10, seed=9)
    rates = {"ppg_fs": FS, "ecg_fs": FS}
    found, expected = (apply_recipe(ppg[:count], ecg[:count], **rates, recipe=r) for r in ("batched", "neurokit2"))
    used = [((s.reason == "") & (s.ppg_quality >= 0.9) & (s.ecg_quality >= 0.9)) for s in (found, expected)]
    far = max(np.abs(a.astype(float) - b.astype(float)).max() for a, b in zip(found[:2], expected[:2], strict=True))
    same, kept = (used[0] == used[1]).sum(), used[1].sum()
    return f"{same} of {count} decisions the same ({kept} kept), waveforms within {far:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=2000, help="of the batched recipe (default: %(default)s)")
    parser.add_argument("--oracle-windows", type=int, default=100, help="of neurokit2 (default: %(default)s)")
    arguments = parser.parse_args()
    print(f"{cpu_name()} | one process | h5py {h5py.__version__}, numpy {np.__version__}")
    print(agreement(arguments.oracle_windows))
    with tempfile.TemporaryDirectory() as name:
        for kind, package in (("PulseDB", "h5py"), ("WFDB", "wfdb"), ("CSV", "pandas")):
            if find_spec(package) is None:
                print(f"{kind}: left out, {package} is not installed")
                continue
            fast, start = measure(kind, Path(name), arguments.windows, "batched")
            slow, slow_start = measure(kind, Path(name), arguments.oracle_windows, "neurokit2")
            print(
                f"{kind}: {1e3 * fast:.2f} ms a window after {start:.1f} s, neurokit2 {1e3 * slow:.1f} ms after"
                f" {slow_start:.1f} s, {slow / fast:.0f}x"
            )


if __name__ == "__main__":
    main()
