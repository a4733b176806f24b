"""The process that scans shards (`WorkerProcess` starts it).

It is a process of its own because the HDF5 library can crash on a damaged file, and because HDF5 does one thing at a
time in each process.
"""

import json
import sys
from pathlib import Path

from xmae_fast.data.formats.layout import Layout
from xmae_fast.data.index.scan import scan_shard
from xmae_fast.data.index.sidecar import fingerprint, write_sidecar


def serve(answer) -> None:
    """Scan the shards that standard input asks for, until it ends."""
    answer(ready=True)
    for line in sys.stdin:
        scan_and_write(json.loads(line), answer)


def scan_and_write(request: dict, answer) -> None:
    """Scan a shard, write its index, and answer with its place (target=) or with the error (error=, kind=).

    Args:
        request: "path", "layout" (the fields of a `Layout`) and "targets", as `ScanWorker.scan` sends them.
        answer: is called with the fields of each answer; until the last one they tell the progress (done=, total=).
    """
    try:
        layout = Layout(**request["layout"])
        valid_for = fingerprint(request["path"], layout)
        scan = scan_shard(request["path"], layout, lambda done, total: answer(done=done, total=total))
        if scan.others:
            valid_for["others"] = scan.others
        if fingerprint(request["path"], layout, scan.others) != valid_for:
            raise ValueError(f"shard {request['path']}: expected a file at rest, it changed while it was scanned")
        target, failure = None, None
        for place in request["targets"]:
            try:
                write_sidecar(Path(place), scan, valid_for)
                target = place
                break
            except OSError as error:
                failure = failure or error
        if target is None:
            raise failure or ValueError("targets: expected a place for the index, got none")
        answer(target=target)
    except (ValueError, OSError) as error:
        answer(error=str(error), kind=type(error).__name__)
    except Exception as error:  # damage makes h5py raise anything
        what = f"shard {request['path']}: expected a readable HDF5 file ({type(error).__name__}: {error})"
        answer(error=what, kind="ValueError")
