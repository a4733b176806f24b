"""The process that prepares recordings (`WorkerProcess` starts it).

It is a process of its own because damaged files can crash the libraries that read them, and because several processes
are faster. It ends when its caller ends.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path


def _end_with(parent: int) -> None:
    """End this process as soon as it has another parent than `parent`."""
    while os.getppid() == parent:
        time.sleep(0.25)
    os._exit(1)


def serve(answer) -> None:
    """Prepare the recordings that standard input asks for, until it ends. `answer` writes an answer."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    from xmae_fast.preparation.making import make_part
    from xmae_fast.preparation.settings import Settings
    from xmae_fast.recordings.names import ADDED
    from xmae_fast.recordings.recording import RecordingError
    from xmae_fast.recordings.sources import Source

    for line in sys.stdin:
        request = json.loads(line)
        source, settings = Source(*request["source"]), Settings.from_json(request["settings"])
        ADDED.update(request["names"])
        try:
            make_part(
                source, settings, request["identity"], Path(request["part"]),
                lambda done, total: answer(done=done, total=total),
            )  # fmt: skip
            answer(part=request["part"])
        except RecordingError as error:
            answer(error=str(error))
        except (OSError, ImportError) as error:  # not the recording's fault: a full disk, a missing package
            answer(fatal=f"{source.path}: {type(error).__name__}: {error}")
        except Exception as error:  # damage makes the libraries raise anything
            answer(error=f"{source.path}: {type(error).__name__}: {error}")
