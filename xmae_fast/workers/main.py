"""What `WorkerProcess` starts: `python main.py MODULE`, with the full name of a module.

The module's `serve(answer)` takes JSON requests from standard input, one in each line, and answers on standard output.
This file imports neither torch nor the package's own __init__, so that it starts at once.
"""

import json
import os
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType


def _answer(stream, **message) -> None:
    try:
        print(json.dumps(message), file=stream, flush=True)
    except BrokenPipeError:  # the caller is gone
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
    import_module(sys.argv[1]).serve(partial(_answer, stream))


if __name__ == "__main__":
    main()
