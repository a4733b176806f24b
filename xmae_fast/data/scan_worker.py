"""A process that scans shards: `python scan_worker.py`, one JSON request a line on standard input, answers on standard
output. Apart from the caller because the HDF5 library can crash on a damaged file, and because it does one thing at a
time per process. Imports neither torch nor the package's front door, so that it starts at once."""

import json
import os
import sys
from pathlib import Path
from types import ModuleType


def _answer(stream, **message) -> None:
    print(json.dumps(message), file=stream, flush=True)


def main() -> None:
    """Serve until standard input ends."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != here]  # its modules are no top-level ones
    package = ModuleType("xmae_fast")
    package.__path__ = [str(here.parent)]
    sys.modules["xmae_fast"] = package
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to standard error
    from xmae_fast.data.layout import Layout
    from xmae_fast.data.scan import scan_shard
    from xmae_fast.data.sidecar import fingerprint, write_sidecar

    _answer(stream, ready=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            layout = Layout(**request["layout"])
            valid_for = fingerprint(request["path"], layout)
            scan = scan_shard(request["path"], layout, lambda done, total: _answer(stream, done=done, total=total))
            if fingerprint(request["path"], layout) != valid_for:
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
                raise failure
            _answer(stream, target=target)
        except (ValueError, OSError) as error:
            _answer(stream, error=str(error), kind=type(error).__name__)
        except Exception as error:  # damage makes h5py raise anything
            what = f"shard {request['path']}: expected a readable HDF5 file ({type(error).__name__}: {error})"
            _answer(stream, error=what, kind="ValueError")


if __name__ == "__main__":
    main()
