"""A process that prepares recordings: `python prepare_worker.py`, one JSON request a line on standard input, answers on
standard output. Apart from the caller because damaged files can crash the libraries that read them, and for speed.
Imports neither torch nor the package's front door, and ends when its caller does."""

import json
import os
import sys
import threading
import time
from pathlib import Path
from types import ModuleType


def _answer(stream, **message) -> None:
    try:
        print(json.dumps(message), file=stream, flush=True)
    except BrokenPipeError:  # the caller is gone
        os._exit(1)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.25)
    os._exit(1)


def main() -> None:
    """Serve until standard input ends."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != here]  # its modules are no top-level ones
    package = ModuleType("xmae_fast")
    package.__path__ = [str(here.parent)]
    sys.modules["xmae_fast"] = package
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to standard error
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    from xmae_fast.data.preparation.making import make_part
    from xmae_fast.data.preparation.recording import RecordingError
    from xmae_fast.data.preparation.settings import Settings
    from xmae_fast.data.preparation.sources import Source

    for line in sys.stdin:
        request = json.loads(line)
        source, settings = Source(*request["source"]), Settings.from_json(request["settings"])
        try:
            make_part(
                source, settings, request["identity"], Path(request["part"]),
                lambda done, total: _answer(stream, done=done, total=total),
            )  # fmt: skip
            _answer(stream, part=request["part"])
        except RecordingError as error:
            _answer(stream, error=str(error))
        except (OSError, ImportError) as error:  # not the recording's fault: a full disk, a missing package
            _answer(stream, fatal=f"{source.path}: {type(error).__name__}: {error}")
        except Exception as error:
            _answer(stream, error=f"{source.path}: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
