"""Bad segments, and shards that change while they are loaded."""

import os
import shutil
import subprocess
import sys
import textwrap

import h5py
import numpy as np
import pytest
import torch

from tests.data.layouts import write_published
from tests.data.test_loader import epoch
from xmae_fast.data import SegmentLoader, ShardChangedError


def test_bad_segments_are_skipped_and_counted_or_raise(shard):
    with h5py.File(shard, "r+") as file:
        records = [group[key] for group in file.values() for key in group]
        records[3][:, 1] = 0.5
        records[5][7, 2] = np.nan
        file["m_0/odd"] = np.zeros((500, 3), np.float16)
    loader = SegmentLoader(shard, 64)
    assert len(epoch(loader)[0]) == 398
    assert dict(loader.rejected) == {"constant": 1, "non-finite": 1, "malformed key": 1}
    assert "rejected: 1 " in loader.explain()
    with pytest.raises(ValueError, match=r"record m_0/odd: segment is malformed key"):
        SegmentLoader(shard, 64, on_bad="raise")


def test_a_segment_that_goes_bad_is_left_out_or_raises(shard):
    loaders = [SegmentLoader(shard, 64, shuffle=False, on_bad=policy) for policy in ("skip", "raise")]
    for loader in loaders:
        loader.segments.opened()
    status = os.stat(shard)
    with h5py.File(shard, "r+") as file:
        next(iter(file["m_100"].values()))[:, 2] = 1.0
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.warns(UserWarning, match="m_100/.*: segment is constant, it was not when the index was made"):
        batches = list(loaders[0])
    assert sorted({len(batch["ppg"]) for batch in batches}) == [16, 63, 64]
    assert all(torch.isfinite(batch["ecg"]).all() for batch in batches)
    assert loaders[0].rejected["constant since indexed"] == 1
    with pytest.raises(ValueError, match="m_100/.*: segment is constant"):
        list(loaders[1])


def replace(path):
    other = path.with_name("other.h5")
    write_published(other, np.random.default_rng(1).normal(size=(2, 400, 500)))
    os.replace(other, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace, "changed or replaced"),
        (lambda path: os.truncate(path, 10_000), "changed or replaced"),
        (os.unlink, "found nothing"),
    ],
)
def test_a_shard_that_is_replaced_changed_or_removed(shard, change, message):
    batches = iter(SegmentLoader(shard, 16, prefetch=1))
    next(batches)
    change(shard)
    with pytest.raises(ShardChangedError, match=message):
        list(batches)


def test_a_shard_that_is_only_touched(shard):
    loader = SegmentLoader(shard, 64)
    loader.segments.opened()
    os.utime(shard)
    assert len(epoch(loader)[0]) == 400


@pytest.mark.parametrize("handler", ["", "import faulthandler; faulthandler.enable()"])
def test_a_shard_cut_short_while_it_is_read(shard, tmp_path, handler):
    """No bus error ends the process, even where the check of the file's size comes too early to see it."""
    code = textwrap.dedent(f"""
        import os, sys
        from xmae_fast.data import SegmentLoader, ShardChangedError
        loader = SegmentLoader({str(shard)!r}, 400, shuffle=False)
        loader.segments.opened().check = lambda files: os.truncate({str(shard)!r}, 4096 * 20)
        {handler}
        try:
            list(loader)
        except ShardChangedError as error:
            print(error)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"shard {shard}: cut short while it was mapped\n"


def test_a_bus_error_elsewhere_still_ends_the_process(shard, tmp_path):
    code = textwrap.dedent(f"""
        import mmap, os
        from xmae_fast.data import SegmentLoader
        list(SegmentLoader({str(shard)!r}, 400))
        file = open({str(shutil.copy(shard, tmp_path / "y.h5"))!r}, "r+b")
        mapping = mmap.mmap(file.fileno(), 0)
        os.truncate(file.fileno(), 0)
        mapping[8192]
        print("still here")
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -7
    assert "still here" not in done.stdout
