"""Ranks of torch.distributed whose segments differ stop with the same error; none waits for another."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.data.layouts import write_published
from tests.fixtures import scan_here
from xmae_fast.data import SegmentLoader
from xmae_fast.data.agreement import _Seen, attempt, difference, settled

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
EXPECTED = "paths: expected the same segments on all ranks, got"
OPTIONS = {"batch_size": 4, "quality": 0, "exclude_prefixes": ()}


def seen(shards: dict[str, int], digest: str = "same", **changes) -> _Seen:
    rows = {f"{name}/{i}": (n, "content") for i, (name, n) in enumerate(shards.items())}
    told = {"segments": {"paths": sum(shards.values())}, "shards": {"paths": rows}, "broken": {"paths": {}}}
    return _Seen(**told | {"digest": {"paths": digest}, "settings": {"seed": 77}} | changes)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ([seen({"a.h5": 8})] * 3, ""),
        ([_Seen(error="no disk")] * 2, ""),
        ([seen({"a.h5": 8}), _Seen(error="no disk")], "paths: rank 1 of 2 cannot open the segments: no disk"),
        ([_Seen(error="a"), _Seen(error="b")], "paths: ranks 0, 1 of 2 cannot open the segments: a"),
        (
            [seen({"a.h5": 8, "b.h5": 4}), seen({"a.h5": 8}, "other"), seen({"a.h5": 8, "b.h5": 4})],
            f"{EXPECTED} 12 on ranks 0, 2, 8 on rank 1: b.h5 is missing on rank 1",
        ),
        (
            [seen({"a.h5": 8}), seen({"a.h5": 8}, "other", broken={"paths": {"b.h5": "cut short"}})],
            f"{EXPECTED} 8 on ranks 0, 1: b.h5 is left out on rank 1 (cut short)",
        ),
        (
            [seen({"a.h5": 8}), seen({"a.h5": 9}, "other")],
            f"{EXPECTED} 8 on rank 0, 9 on rank 1: a.h5 is not the same on rank 0 and rank 1",
        ),
        (
            [seen({"a.h5": 8}), seen({"a.h5": 8}, "other")],
            f"{EXPECTED} 8 on ranks 0, 1: the selection or the subjects differ",
        ),
        (
            [seen({"a.h5": 8}), seen({"a.h5": 8}, settings={"seed": 78})],
            "seed: expected one value on all ranks, got 77 on rank 0, 78 on rank 1",
        ),
    ],
)
def test_differences_are_told_in_a_line(ranks, message):
    assert difference(ranks) == message


def test_alone_nothing_is_compared():
    assert settled(attempt(lambda: 3), lambda _: {}) == 3
    with pytest.raises(ZeroDivisionError):
        settled(attempt(lambda: 1 / 0), lambda _: {})


CASES = {
    "alike": "",
    "a folder without b.h5": f"{EXPECTED} 12 on rank 0, 8 on rank 1: b.h5 is missing on rank 1",
    "a b.h5 that is cut short": "b.h5 is left out on rank 1 (shard",
    "a b.h5 with one value changed": "got 12 on ranks 0, 1: b.h5 is not the same on rank 0 and rank 1",
    "a path that is not there": "paths: rank 1 of 2 cannot open the segments: shard",
    "another seed": "seed: expected one value on all ranks, got 77 on rank 0, 1 on rank 1",
    "another batch_size": "batch_size: expected one value on all ranks, got 4 on rank 0, 2 on rank 1",
    "another selection": "got 12 on rank 0, 8 on rank 1: the selection or the subjects differ",
    "alike again": "",
}


def work(folder: str) -> None:
    """Run by each of the processes: all cases, whose outcomes are written as JSON."""
    rank = int(os.environ["RANK"])
    scan_here(pytest.MonkeyPatch())
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    outcome = {}
    for case in CASES:
        options, path = (
            dict(OPTIONS),
            os.path.join(folder, case if rank and os.path.isdir(f"{folder}/{case}") else "own"),
        )
        if rank:
            options |= {"seed": 1} if "seed" in case else {"batch_size": 2} if "batch_size" in case else {}
            options |= {"exclude_subjects": ["m_0"]} if "selection" in case else {}
            path = os.path.join(folder, "none.h5") if "not there" in case else path
        try:
            loader = SegmentLoader(path, shuffle=False, **options)
            shape = sum(len(batch["subject"]) for batch in loader)
            outcome[case] = [loader.rank, loader.world_size, shape]
        except ValueError as error:
            outcome[case] = str(error)
    torch.distributed.destroy_process_group()
    print(json.dumps(outcome))


def test_two_processes(tmp_path):
    signals = np.random.default_rng(0).normal(size=(2, 12, 50))
    for name in ("own", *(case for case in CASES if "b.h5" in case)):
        (tmp_path / name).mkdir()
        write_published(tmp_path / name / "a.h5", signals[:, :8])
        if "without" not in name:
            write_published(tmp_path / name / "b.h5", signals[:, 8:] * (2 if "changed" in name else 1))
        if "cut short" in name:
            os.truncate(tmp_path / name / "b.h5", 1000)
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "tests.data.test_agreement", str(tmp_path)]
    processes = [
        subprocess.Popen(command, env=environment | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        printed = [process.communicate(timeout=150)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    first, second = (json.loads(text.splitlines()[-1]) for text in printed)
    for case, message in CASES.items():
        if message:
            assert message in first[case]
            assert first[case] == second[case]
            assert "\n" not in first[case]
        else:
            assert (first[case], second[case]) == ([0, 2, 6], [1, 2, 6])


if __name__ == "__main__":
    work(sys.argv[1])
