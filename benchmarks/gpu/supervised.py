"""benchmarks/run.py in a process that may die: a fault costs the contestant that it comes from, not the suite.

    python -m benchmarks.gpu.supervised --json FILE [--contestant-limit S] -- --suite train [options of run.py]

All contestants share a process, because those that take turns are compared best; run.py writes its file before and
after each of them. When the process ends by a signal, loses the GPU's context, or writes nothing for
--contestant-limit seconds (then it is killed), the contestant at work is marked with how it ended, and a new process
goes on with the rest: what was timed before is kept, and its ratios to the rest are those of medians. An end during the
timing in turns leaves the times that each had taken by itself. Exit code: that of the last run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks.gpu.running import ROOT, Process, end_in_words, kill_on_term

CONTESTANT_LIMIT_S = 150.0  # max-autotune of a training step is the longest
START_LIMIT_S = 180.0  # until the file is first written: imports, signals, the machine's peaks
MOST_STARTS = 12
AS_IT_SHOULD = (0, 1, 2)  # done, done with wrong numbers, arguments that cannot be served


def supervise(
    json_file: Path, arguments: list[str], contestant_limit_s: float, script: Path = ROOT / "benchmarks" / "run.py"
) -> int:
    """Run until everything is measured or no start gets further; returns the exit code."""
    after, before, lost = "", None, False
    started: list[Process] = []
    kill_on_term(lambda: started)
    for _ in range(MOST_STARTS):
        command = [sys.executable, str(script), *arguments, "--json", str(json_file)]
        command += ["--resume", str(json_file), *(["--after", after] if after else [])]
        process, stuck = Process(command, float("inf"), say=lambda line: print(line, flush=True)), False
        started[:], began_at = [process], time.time()
        while not process.finished():
            written = json_file.stat().st_mtime if json_file.exists() else 0.0
            idle, began = time.time() - written, written >= began_at
            if idle > contestant_limit_s if began else process.seconds > START_LIMIT_S:
                stuck = True
                process.kill()
            time.sleep(0.2)
        if process.code in AS_IT_SHOULD and not (process.code == 1 and _unfinished(json_file)):
            return max(process.code, int(lost))
        lost = True
        after = f"was stopped after {contestant_limit_s:.0f} s" if stuck else f"ended by {end_in_words(process.code)}"
        now = _progress(json_file)
        print(f"run.py {after}; going on with the rest: {_at_work(json_file) or 'timing'}", flush=True)
        if now == before:
            break
        before = now
    print("run.py ends again and again at the same place: given up", flush=True)
    return 1


def _rows(json_file: Path) -> list[tuple[str, dict]]:
    if not json_file.exists():
        return []
    suites = json.loads(json_file.read_text())["suites"]
    return [(group["title"], row) for groups in suites.values() for group in groups for row in group["rows"]]


def _at_work(json_file: Path) -> str:
    names = [f"{title}, {row['name']}" for title, row in _rows(json_file) if row["status"] == "running"]
    return "; ".join(names) + " was at work" if names else ""


def _unfinished(json_file: Path) -> bool:
    """Whether Python ended with an error of its own, which has exit code 1 as wrong numbers have."""
    return not _rows(json_file) or bool(_at_work(json_file)) or not json.loads(json_file.read_text()).get("finished")


def _progress(json_file: Path) -> list[tuple[str, str, str]]:
    return [(title, row["name"], row["status"]) for title, row in _rows(json_file)]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="what run.py writes and goes on with")
    parser.add_argument("--contestant-limit", type=float, default=CONTESTANT_LIMIT_S, metavar="S")
    parser.add_argument("arguments", nargs="+", help="of run.py, after --")
    options = parser.parse_args(arguments)
    return supervise(options.json, options.arguments, options.contestant_limit)


if __name__ == "__main__":
    sys.exit(main())
