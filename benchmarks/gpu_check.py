"""What is to be found out on a machine with a GPU, in the order of its worth, as far as the time goes, without network.

    python benchmarks/gpu_check.py --out DIR [--stages look,tests,train] [--budget 530] [--resume DIR]

docs/gpu.md says in ten lines what to do. Runs from a checkout; nothing needs to be installed but torch, triton, pytest,
rich, h5py, matplotlib and safetensors; compiled parts are built by the compilers themselves. Each stage is a process
with a time limit, and what it has found is in DIR at any time: summary.md (a minute to read, also printed last),
report.md (all tables), results.json, look.json, profile.json, stages.json, logs.txt. Exit code: 1 if something failed,
2 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu.running import Logs, Process, kill_on_term, last_lines
from benchmarks.gpu.stages import BUDGET_S, RESULTS, Choices, Stage, left_of, stages

LAST_LINES = 25  # of a stage that the report shows
LEAST_S = 10  # that a stage is begun with
MACHINE_LIMIT_S = 90
KEPT = (RESULTS, "stages.json", "look.json", "profile.json")  # what a resumed run goes on with
NO_GPU = 2


class Check:
    """One run of the command: its stages, and what came of them."""

    def __init__(self, out: Path, budget_s: float, wanted: list[str], choices: Choices) -> None:
        self.out, self.budget_s, self.choices = out, budget_s, choices
        self.began = time.monotonic()
        self.stages = [stage for stage in stages(choices) if stage.name in wanted]
        self.logs = Logs(out / "logs.txt")
        self.about: dict = {}
        self.machine = "the machine is not known yet"
        self.outcomes: list = []
        self.processes: list[Process] = []

    @property
    def left(self) -> float:
        return self.budget_s - (time.monotonic() - self.began)

    def run(self, earlier: dict) -> int:
        """All stages but those that `earlier`, a stages.json, says have passed; returns the exit code."""
        kill_on_term(lambda: self.processes)
        probe = self._machine()
        look = self._start(self.stages[0]) if self.stages and self.stages[0].name == "look" and not earlier else None
        probe.wait(look[1].finished if look else None)  # both pass their lines on
        if problem := self._not_as_wanted(probe, earlier):
            for process in self.processes:
                process.kill()
            print(f"error: {problem}", file=sys.stderr)
            return NO_GPU
        from benchmarks.gpu.summary import Outcome  # which imports torch: a matter of seconds

        passed = {one["name"]: one for one in earlier.get("stages", ()) if one["state"] == "passed"}
        done = {stage.name for stage in self.stages}
        kept = [Outcome(**one) for one in earlier.get("stages", ()) if one["name"] in passed or one["name"] not in done]
        self.outcomes = kept
        for stage in self.stages:
            if stage.name in passed:
                print(f"{stage.name}: passed in the earlier run", flush=True)
                continue
            self.outcomes.append(self._outcome(stage, look[1] if look and stage.name == "look" else None))
            self._write()
        print((self.out / "summary.md").read_text() if self.outcomes else "nothing to do", flush=True)
        return 0 if all(outcome.state == "passed" for outcome in self.outcomes) else 1

    def _machine(self) -> Process:
        """Says what the machine is; look says so itself."""
        process = Process(machine_command(self.choices), MACHINE_LIMIT_S)
        self.processes.append(process)
        return process

    def _not_as_wanted(self, probe: Process, earlier: dict) -> str:
        """Why nothing can be run here, or ''; from now on the machine is known."""
        lines = probe.output.splitlines()
        if probe.code == NO_GPU:
            return "gpu_check needs a GPU, but torch finds no CUDA device"
        numbers = [line[3:] for line in lines if line.startswith("@@ ")]
        if not numbers:
            return f"the machine cannot be looked at: {' '.join(last_lines(probe.output, 2)) or probe.state}"
        self.about = json.loads(numbers[-1])
        self.machine = "\n".join([*(line[2:] for line in lines if line.startswith("@ ")), self.about["explained"]])
        for name, was in earlier.get("about", {}).items():
            found = {"gpu": self.about["gpu"], "torch": self.about["versions"]["torch"]}[name]
            if was != found:
                return f"--resume: that run was made with {name} {was!r}, this machine has {found!r}"
        return ""

    def _start(self, stage: Stage) -> tuple[float, Process]:
        seconds = left_of(self.budget_s, stage, self.left, alone=len(self.stages) == 1)
        self.logs.add(stage.name, "begins")
        say = (lambda line: print(line, flush=True)) if stage.shown else None
        process = Process(stage.command(self.out), seconds, say=say, append_to=None if stage.shown else self.logs.path)
        self.processes.append(process)
        return seconds, process

    def _outcome(self, stage: Stage, process: Process | None):
        """Run one stage (or wait for it, where it runs already)."""
        from benchmarks.gpu.summary import Outcome

        if stage.missing:
            return self._said(Outcome(stage.name, stage.what, f"not run: {stage.missing}", 0.0, ""))
        if process is None and self.left < min(LEAST_S, self.budget_s / 2):
            return self._said(Outcome(stage.name, stage.what, "not run: no time was left", 0.0, ""))
        process = process or self._start(stage)[1]
        process.wait()
        if stage.shown:
            self.logs.add(f"{stage.name}: output", process.output)
        tail = "\n".join(last_lines(process.output, LAST_LINES))
        return self._said(Outcome(stage.name, stage.what, process.state, process.seconds, tail))

    def _said(self, outcome):
        print(f"{outcome.name}: {outcome.state} ({outcome.seconds:.0f} s)", flush=True)
        return outcome

    def _write(self) -> None:
        """Whatever is known by now."""
        from benchmarks.gpu.summary import report, summary

        about = {"gpu": self.about["gpu"], "torch": self.about["versions"]["torch"]}
        found = {"about": about, "machine": self.machine, "stages": [one._asdict() for one in self.outcomes]}
        (self.out / "stages.json").write_text(json.dumps(found, indent=1) + "\n")
        (self.out / "report.md").write_text(report(self.machine, self.outcomes, self.out))
        (self.out / "summary.md").write_text(summary(self.machine, self.outcomes, self.out))


def machine_command(choices: Choices) -> list[str]:
    """What says which machine this is."""
    rehearse = ["--rehearse", str(choices.rehearse.resolve())] if choices.rehearse else []
    return [sys.executable, "-m", "benchmarks.gpu.probe", "machine", *choices.words, *rehearse]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    names = [stage.name for stage in stages(Choices())]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where everything is written")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds for all of it (default: %(default)s)")
    parser.add_argument("--stages", type=lambda text: text.split(","), default=names, help=f"of {','.join(names)}")
    parser.add_argument(
        "--resume", type=Path, metavar="DIR",
        help="results of an earlier call on the same kind of machine: what has passed or is timed is left out",
    )  # fmt: skip
    parser.add_argument("--prebuilt", type=Path, metavar="DIR", help="libraries built elsewhere, taken where they fit")
    parser.add_argument(
        "--without", action="append", default=[], metavar="OP=IMPL",
        help="go round an implementation of an operator, e.g. conv_stem=triton (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "--config", action="append", default=[], metavar="[KERNEL=]N",
        help="launch Triton's kernels, or one of them, with configuration number N (repeatable)",
    )  # fmt: skip
    parser.add_argument("--rehearse", type=Path, help=argparse.SUPPRESS)  # without a GPU; a script that runs first
    options = parser.parse_args(arguments)
    if unknown := set(options.stages) - set(names):
        parser.error(f"--stages: expected some of {', '.join(names)}, got {', '.join(sorted(unknown))}")
    if options.without or options.config:
        from benchmarks.harness.choosing import parse_config, parse_without  # which imports torch

        try:
            list(map(parse_without, options.without)), list(map(parse_config, options.config))
        except ValueError as error:
            parser.error(str(error))
    if options.resume is not None and not (options.resume / "stages.json").is_file():
        parser.error(f"--resume: expected the folder of an earlier run, got {options.resume}")
    options.out.mkdir(parents=True, exist_ok=True)
    earlier = {}
    if options.resume is not None:
        earlier = json.loads((options.resume / "stages.json").read_text())
        for name in KEPT:
            if (options.resume / name).is_file() and options.resume.resolve() != options.out.resolve():
                shutil.copyfile(options.resume / name, options.out / name)
    choices = Choices(tuple(options.without), tuple(options.config), options.prebuilt, options.rehearse)
    return Check(options.out, options.budget, options.stages, choices).run(earlier)


if __name__ == "__main__":
    sys.exit(main())
