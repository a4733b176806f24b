"""Measure xmae_fast on this machine: `python benchmarks/run.py --help`.

Every implementation is compared with float64 before it is timed; all are timed in turns in one process. Exit code: 0,
1 when an implementation's numbers are wrong, 2 when the arguments cannot be served, 3 when a fault has made the GPU
unusable for this process (`--resume` goes on).
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
import time
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # an installed xmae_fast goes before the source tree,
import xmae_fast

sys.path.insert(0, sys.path[-1])  # and this folder's package before any other of its name

import h5py
import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from benchmarks.harness import base, page, plot, report
from benchmarks.harness.apart import measure_apart
from benchmarks.harness.choosing import add_choices, apply_choices, words_of
from benchmarks.harness.contest import ContextLost, Result, failures, measure
from benchmarks.harness.context import COMPILE_LEVELS, Context
from benchmarks.harness.earlier import Earlier
from benchmarks.harness.machine import Machine, measure_machine
from benchmarks.suites import loader, model, ops, stages, stems, train
from xmae_fast import backend
from xmae_fast.reports import check_page, run_facts, running

SUITES = {"ops": ops, "model": model, "train": train, "stages": stages, "stems": stems, "loader": loader}
PLOTTED = ("masks", "embed", "forward", "train")
CONTEXT_LOST = 3


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    if not faulthandler.is_enabled():
        faulthandler.enable()  # other runtimes' libraries share this process: a crash is to say where
    options = _parser().parse_args(arguments)
    if problem := _problem(options):
        return _refuse(problem)
    with running(["python", "benchmarks/run.py", *(sys.argv[1:] if arguments is None else arguments)]):
        return _served(options)


def _served(options: argparse.Namespace) -> int:
    """Do what options ask for that can be served."""
    if options.base is not None:
        return base.compare(Path(__file__).resolve().parents[1], options.base, _passed_on(options), options.rounds)
    device = "cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu"
    if options.threads:
        torch.set_num_threads(options.threads)
    compiling = options.compile or ("quick" if options.quick else "default")
    context = Context(torch.device(device), tuple(options.data), options.quick, compiling)
    try:
        apply_choices(options)
        earlier = Earlier(options.resume, options.after)
        if not options.after:
            earlier.forget_failures(options.suite)
    except ValueError as error:
        return _refuse(str(error))
    try:
        source = context.source
    except (OSError, ValueError) as error:
        return _refuse(f"--data: {error}")
    return _run(context, source, options, earlier)


def _problem(options: argparse.Namespace) -> str:
    """Why these options cannot be served, or ''."""
    if unknown := set(options.suite) - set(SUITES):
        return f"--suite: expected some of {', '.join(SUITES)}, got {', '.join(sorted(unknown))}"
    if options.device == "cuda" and not torch.cuda.is_available():
        return "--device: cuda was asked for, but torch finds no CUDA device"
    if options.threads is not None and options.threads < 1:
        return f"--threads: expected at least 1, got {options.threads}"
    if options.rounds < 1:
        return f"--rounds: expected at least 1, got {options.rounds}"
    for name in ("json", "html", "plot", "resume", "apart"):
        if options.base is not None and getattr(options, name):
            return f"--{name}: expected to be left out with --base, which prints a table alone"
    for name in ("json", "plot"):
        path = getattr(options, name)
        if path is not None and not path.absolute().parent.is_dir():
            return f"--{name}: expected a file in an existing folder, got {path}"
    try:
        if options.html is not None:
            check_page(options.html)
    except OSError as error:
        return f"--{error}"
    return ""


def _passed_on(options: argparse.Namespace) -> list[str]:
    """Options that the benchmarks of both trees get with --base."""
    given = ["--suite", ",".join(options.suite), "--device", options.device]
    for name in ("compile", "threads"):
        if getattr(options, name) is not None:
            given += [f"--{name}", str(getattr(options, name))]
    files = [str(Path(file).resolve()) for file in options.data]
    return [*given, *words_of(options), *(["--quick"] if options.quick else []), *(["--data", *files] if files else [])]


def _refuse(problem: str) -> int:
    print(f"error: {problem}", file=sys.stderr)
    return 2


def _run(context: Context, source: str, options: argparse.Namespace, earlier: Earlier) -> int:
    start, device = time.perf_counter(), context.device
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    machine = measure_machine(device)
    about = _about(context, source) | {"choices": words_of(options), "run": run_facts("benchmarks.run.main(...)")}
    about["settings"]["apart"] = options.apart
    if problem := earlier.mismatch(machine, about["settings"]):
        return _refuse(f"--resume: {problem}")
    console.print(machine.line(), style="bold", soft_wrap=True)
    console.print(f"Signals: {source}. Precision: {context.dtype}".replace("torch.", ""), soft_wrap=True)
    console.print(_what_auto_is(device), soft_wrap=True)
    console.print(report.LEGEND, style="dim")
    suites: dict[str, list[Result]] = {}

    def save(name: str, *now: Result, finished: bool = False) -> None:
        """What is done, the group that is at work, and what only the earlier run has."""
        found = suites | {name: [*suites[name], *now]}
        done = {suite: [result.group.title for result in results] for suite, results in found.items()}
        report.write_json(options.json, machine, about | {"finished": finished}, found, earlier.rest(done))

    # On a GPU a fault can end the process at any time: then after each contestant, otherwise after each group.
    often = options.json is not None and (device.type == "cuda" or options.resume is not None)
    with _progress(console) as progress:
        task = progress.add_task("")
        for name in options.suite:
            console.rule(name)
            suites[name] = []
            if often:
                save(name)
            for group in SUITES[name].groups(context):
                began = time.perf_counter()
                try:
                    tell, known = partial(_tell, progress, task), earlier.known(name, group.title)
                    if options.apart and (group.settle_s or group.after_other_work):
                        suite = SUITES[name].__name__
                        result = measure_apart(group, context, suite, words_of(options), tell, known)
                    else:
                        keep = partial(save, name) if often else None
                        result = measure(group, device, context.effort, tell, known, keep)
                except ContextLost as error:
                    console.print(f"{group.title}: {error}", style="bold red", soft_wrap=True, markup=False)
                    return CONTEXT_LOST
                suites[name].append(result)
                if options.json:
                    save(name)
                took = f"{time.perf_counter() - began:.1f} s"
                console.print(f"{group.title}: {len(result.timed())} timed in {took}", style="dim")
            (report.print_parts if name == "stages" else report.print_suite)(console, suites[name], machine)
    if options.json:
        save(name, finished=True)
    if options.html:
        done = {suite: [result.group.title for result in results] for suite, results in suites.items()}
        page.write(options.html, report.payload(machine, about | {"finished": True}, suites, earlier.rest(done)))
    results = [result for group in suites.values() for result in group]
    _summarise(console, results, machine, time.perf_counter() - start)
    if options.plot:
        plot.draw(options.plot, machine, [r for r in results if r.group.title.startswith(PLOTTED)])
    return 1 if list(failures(results)) else 0


def _about(context: Context, source: str) -> dict[str, dict]:
    """Versions, settings and what impl="auto" runs, for the JSON file."""
    device = context.device
    return {
        "versions": _versions(),
        "settings": {"device": str(device), "quick": context.quick, "compile": context.compiling, "signals": source},
        "auto": {op: backend.resolve(op, "auto", device) for op in backend.OPS},
    }


def _summarise(console: Console, results: list[Result], machine: Machine, seconds: float) -> None:
    console.rule("summary")
    console.print(machine.line(), style="bold", soft_wrap=True)
    for line in filter(None, (report.headline(result, machine) for result in results)):
        console.print(line, style="green", soft_wrap=True)
    for line in failures(results):
        console.print(f"FAILED {line}", style="bold red", soft_wrap=True)
    busy = sum(result.other_work > report.BUSY for result in results)
    if busy:
        console.print(f"WARNING: {busy} groups were timed while other processes were at work", style="bold yellow")
    console.print(f"{len(results)} groups in {seconds:.0f} s")


def _what_auto_is(device: torch.device) -> str:
    """A line per operator: what impl="auto" runs here."""
    lines = []
    for op in backend.OPS:
        chosen = xmae_fast.explain(op, device=device).partition(";")[0]
        same = backend.resolve(op, "auto", device) == "reference"
        lines.append(f"  {chosen}{': the plain path, no faster kernel yet' if same else ''}")
    return "\n".join(["What impl='auto' runs here:", *lines])


def _tell(progress: Progress, task: TaskID, text: str) -> None:
    progress.update(task, description=text)


def _progress(console: Console) -> Progress:
    columns = SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _versions() -> dict[str, str]:
    modules = {"xmae_fast": xmae_fast, "torch": torch, "numpy": np, "h5py": h5py}
    return {"python": sys.version.split()[0]} | {name: module.__version__ for name, module in modules.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks/run.py", description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="+", default=[], metavar="FILE", help="shards (default: simulated signals)")
    parser.add_argument(
        "--suite", type=lambda text: text.split(","), default=list(SUITES), metavar="A,B",
        help=f"some of {','.join(SUITES)} (default: all)",
    )  # fmt: skip
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--quick", action="store_true", help="small sizes, little compilation: under two minutes")
    parser.add_argument("--compile", choices=COMPILE_LEVELS, help="how many baselines to compile (default: by --quick)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's)")
    parser.add_argument(
        "--apart", action="store_true",
        help="on a CPU, measure each contestant of the embeddings in a process of its own, without the threads of "
        "other runtimes; ratios are then those of medians",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="F", help="write everything that was measured")
    parser.add_argument(
        "--html", type=Path, metavar="F.html", help="write a page with all tables, which needs no other file"
    )
    parser.add_argument(
        "--resume", type=Path, metavar="F",
        help="what --json of an unfinished run wrote on this kind of machine: what it has timed is not run again; "
        "its ratios to the rest are those of medians (a file that is not there: nothing is known)",
    )  # fmt: skip
    parser.add_argument("--after", default="", help=argparse.SUPPRESS)  # how that run ended, see gpu/supervised.py
    add_choices(parser)
    parser.add_argument("--plot", type=Path, metavar="F.png", help="write a picture of the speeds")
    parser.add_argument(
        "--base", metavar="REF",
        help="measure this tree, as it is and as it was built, against a commit: ours alone, in turns",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=base.ROUNDS, metavar="N", help="processes of each with --base")
    return parser


if __name__ == "__main__":
    sys.exit(main())
