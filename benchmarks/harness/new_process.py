"""A module's `main` in a new process, with the same xmae_fast and benchmarks as here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import xmae_fast


def last_line_of(module: str, order: dict[str, Any], timeout_s: float) -> str:
    """The last line that `module.main()` prints, which reads `order` as JSON from its standard input.

    Raises:
        RuntimeError: the process failed, or took longer; the message is its own last line.
    """
    package, here = Path(xmae_fast.__file__).resolve().parents[1], Path(__file__).resolve().parents[2]
    code = (
        f"import sys; sys.path[0] = {str(package)!r}; import xmae_fast; sys.path.insert(0, {str(here)!r}); "
        f"import {module}; {module}.main()"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], input=json.dumps(order), capture_output=True, text=True, timeout=timeout_s,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"no result within {timeout_s:.0f} s") from error
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}")
    return done.stdout.strip().rpartition("\n")[2]
