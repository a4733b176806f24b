"""The program that `WorkerProcess` starts: `python main.py MODULE LEVEL`, with the full name of a module, and with the
least level of what it logs to standard error.

The module's function `serve(answer)` reads JSON requests from standard input, one on each line. It calls `answer` with
keyword arguments, which are written to standard output as JSON. This file imports neither torch nor the __init__ of the
package, so that it starts at once.
"""

import json
import os
import sys
import warnings
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType


def _answer(stream, **message) -> None:
    """Write one answer; the process ends if the caller is gone."""
    try:
        print(json.dumps(message), file=stream, flush=True)
    except BrokenPipeError:
        os._exit(1)


def main() -> None:
    """Serve requests until standard input ends."""
    here = Path(__file__).resolve().parent
    # The modules of this folder must not be found as top-level ones.
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != here]
    package = ModuleType("xmae_fast")
    package.__path__ = [str(here.parent)]
    sys.modules["xmae_fast"] = package
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print goes to standard error
    if not sys.warnoptions:  # what users should know comes in answers; each process would warn again
        warnings.simplefilter("ignore")
    messages = import_module("xmae_fast._messages")
    with messages.said_on_stderr(int(sys.argv[2]), f"worker {os.getpid()}"):
        import_module(sys.argv[1]).serve(partial(_answer, stream))


if __name__ == "__main__":
    main()
