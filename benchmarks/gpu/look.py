"""The first look at a GPU, within 100 seconds: is each operator right, how fast are a training step and an embedding.

    python -m benchmarks.gpu.look --out DIR [--seconds 96] [--operators A,B]

Every operator and implementation is a process of its own with a time limit (`probe`); they compile at the same time,
and meanwhile others compile the kernels of the training step, and nvcc the CUDA C++ operators. The step and the
embedding come last, when the GPU is free, and one after the other. A process that fails, dies or hangs costs its own
line, which names the launch. Each line is printed as soon as it is known, ten lines of summary at the end;
DIR/look.json has all of it at any time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.running import Logs, Process, kill_on_term, last_lines

FLOAT32 = (
    "conv_stem", "lag_attention", "feed_forward", "patch_embed", "waveform_loss", "token_gather", "random_masking",
)  # fmt: skip
BFLOAT16 = FLOAT32[:5]  # the last two copy and count: they are equal bit for bit in any precision
CUDA = ("conv_stem", "conv_stem evaluation", "conv_stems")
WARMERS = 6
OPERATOR_LIMIT_S = 60.0
STEP_SHARE = 0.7  # of the time that is left then; the embedding has the rest
STEP_AT = 0.55  # of the time: then the step begins, even if operators are still at work
WIDTH = 190  # of a line that is printed; look.json has all of it


class Job:
    """A process of the look: what it is called, what it has said, what came of it."""

    def __init__(self, name: str, process: Process, trace: Path | None) -> None:
        self.name, self.process, self.trace = name, process, trace
        self.lines: list[str] = []
        self.numbers: dict[str, Any] = {}
        self.state = ""  # while it runs

    def last_launch(self) -> str:
        """The launch that it made last, '' if it traced none."""
        if self.trace is None or not self.trace.exists():
            return ""
        return (last_lines(self.trace.read_text(), 1, 400) or [""])[0]


class Look:
    """Runs the jobs of a look.

    Args:
        out: where look.json and logs.txt are written.
        seconds: after which everything still at work is ended.
        choices: --without and --config, as words.
        operators: of those alone; none: of all, and the step and the embedding too.
        prebuilt: a folder with built libraries.
        rehearse: a script that every process runs first; there is no GPU and nothing is built.
    """

    def __init__(
        self,
        out: Path,
        seconds: float,
        choices: list[str],
        operators: list[str],
        prebuilt: Path | None = None,
        rehearse: Path | None = None,
        limit_s: float = OPERATOR_LIMIT_S,
        batch: int = 512,
    ) -> None:
        self.out, self.choices, self.operators, self.prebuilt = out, choices, operators, prebuilt
        self.rehearse, self.limit_s, self.batch = rehearse, limit_s, batch
        self.began, self.seconds = time.monotonic(), seconds
        self.jobs: list[Job] = []
        self.logs = Logs(out / "logs.txt")
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        self.gpu = True

    @property
    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.began)

    def run(self) -> int:
        """Everything; returns the exit code."""
        kill_on_term(lambda: [job.process for job in self.jobs])
        self._start("machine", ["machine"], 60)
        build = None if self.rehearse or "conv_stem=cuda" in self.choices else self._build()
        triton = self._operators()
        warmers = [] if self.rehearse or self.operators else self._warmers()
        after_build: list[Job] = []
        while self._poll() and self.left > 0 and self.gpu:
            if build is not None and build.state:
                after_build = self._cuda(build)
                build = None
            free = all(job.state for job in (*triton, *warmers, *after_build)) and build is None
            late = time.monotonic() - self.began > STEP_AT * self.seconds
            if not self.operators and self._named("step") is None and (free or late):
                self._whole("step")
            step = self._named("step")
            if step is not None and self._named("embedding") is None and (step.state or step.process.seconds > 4):
                self._whole("embedding")  # which waits for the step's lock
            if free and all(job.state for job in self.jobs):
                break
        self._end()
        return self.summarise()

    def _operators(self) -> list[Job]:
        pairs = [(op, "float32") for op in FLOAT32] + [(op, "bfloat16") for op in BFLOAT16]
        pairs.sort(key=lambda pair: FLOAT32.index(pair[0]))  # those that compile longest first
        wanted = [pair for pair in pairs if pair[0] in (self.operators or FLOAT32)]
        return [self._operator(op, "triton", dtype) for op, dtype in wanted if f"{op}=triton" not in self.choices]

    def _operator(self, op: str, impl: str, dtype: str) -> Job:
        name = f"{op} {impl} {dtype}".replace("cuda", "CUDA C++")
        # A fault is reported by the launch that it comes from, and not by a later one.
        return self._start(name, ["operator", op, impl, dtype], self.limit_s, CUDA_LAUNCH_BLOCKING="1")

    def _warmers(self) -> list[Job]:
        parts = [["warm", str(part), str(WARMERS), "--batch", str(self.batch)] for part in range(WARMERS)]
        return [self._start(f"compile {part}", words, self.limit_s) for part, words in enumerate(parts)]

    def _whole(self, name: str) -> None:
        words = [name, "--batch", str(self.batch), "--lock", str(self.folder / "gpu.lock")]
        self._start(name, words, STEP_SHARE * self.left if name == "step" else self.left)

    def _build(self) -> Job:
        job = Job(
            "build", Process(self.build_command(), self.seconds, say=lambda line: self._hear(job, "@ " + line)), None
        )
        self.jobs.append(job)
        return job

    def _cuda(self, build: Job) -> list[Job]:
        """The CUDA C++ operators, if they are there by now; otherwise their rows are lost, and nothing else."""
        if build.state != "passed":
            return []
        return [self._operator(op, "cuda", "bfloat16") for op in CUDA if op in (self.operators or CUDA)]

    def build_command(self) -> list[str]:
        """What builds the CUDA C++ operators."""
        prebuilt = ["--prebuilt", str(self.prebuilt.resolve())] if self.prebuilt else []
        return [sys.executable, "-m", "benchmarks.gpu.build", "--only", "cuda", *prebuilt]

    def probe_command(self, words: list[str], trace: Path) -> list[str]:
        """What finds one thing out."""
        rehearse = ["--rehearse", str(self.rehearse.resolve())] if self.rehearse else []
        command = [sys.executable, "-m", "benchmarks.gpu.probe", *words, "--trace", str(trace)]
        return [*command, *self.choices, *rehearse]

    def _start(self, name: str, words: list[str], limit_s: float, **extra: str) -> Job:
        trace = self.folder / f"{len(self.jobs)}.trace"
        command = self.probe_command(words, trace)
        job = Job(name, Process(command, min(limit_s, self.left), lambda line: self._hear(job, line), "", extra), trace)
        self.jobs.append(job)
        return job

    def _hear(self, job: Job, line: str) -> None:
        if line.startswith("@@ "):
            with contextlib.suppress(ValueError):  # a process that is killed may leave half a line
                job.numbers = json.loads(line[3:])
        elif line.startswith("@ "):
            job.lines.append(line[2:])
            self._say(f"{job.name}: {line[2:]}")

    def _say(self, line: str) -> None:
        print(f"[{time.monotonic() - self.began:3.0f} s] {line}"[:WIDTH], flush=True)

    def _poll(self) -> bool:
        """Look after the processes; True."""
        for job in self.jobs:
            if not job.state and job.process.finished():
                self._ended(job)
        time.sleep(0.05)
        return True

    def _ended(self, job: Job, cut_off: bool = False) -> None:
        job.state = "cut off: the time was over" if cut_off else job.process.state
        self.logs.add(f"look: {job.name}: {job.state}", job.process.output)
        if job.name == "machine" and job.process.code == 2:
            self.gpu = False
        said = any(line.startswith(("FAILED", "WRONG", "does not compile", "no GPU")) for line in job.lines)
        if job.state != "passed" and not said:  # it could not say why
            last = last_lines(job.process.output, 1, 120)
            launch = job.last_launch()
            where = f"; its last launch: {launch}" if launch else f"; its last line: {last[0]}" if last else ""
            job.lines.append(f"{job.state}{where}")
            self._say(f"{job.name}: {job.lines[-1]}")
        self._write()

    def _end(self) -> None:
        for job in self.jobs:
            if not job.state:
                job.process.kill(term_s=0.0)
                self._ended(job, cut_off=True)
        self._folder.cleanup()

    def _write(self) -> None:
        found = [
            {"name": job.name, "state": job.state, "seconds": job.process.seconds, "lines": job.lines}
            | {"numbers": job.numbers}
            for job in self.jobs
        ]
        temporary = self.out / ".look.json.tmp"
        temporary.write_text(json.dumps({"seconds": time.monotonic() - self.began, "jobs": found}, indent=1) + "\n")
        os.replace(temporary, self.out / "look.json")

    def _named(self, name: str) -> Job | None:
        return next((job for job in self.jobs if job.name == name), None)

    def summarise(self) -> int:
        """Print the summary; returns the exit code: 0 if everything was right."""
        if not self.gpu:
            return 2
        for line in summary_lines(self.jobs, time.monotonic() - self.began):
            print(line[:WIDTH], flush=True)
        return 0 if all(job.state == "passed" for job in self.jobs) else 1


def summary_lines(jobs: list[Job], seconds: float) -> list[str]:
    """Ten lines at most."""
    operators = [job for job in jobs if " " in job.name and not job.name.startswith("compile")]
    bad = [job for job in jobs if job.state != "passed"]
    right = sum(job.state == "passed" for job in operators)
    lines = [f"--- look: {right} of {len(operators)} operators right, {len(bad)} processes failed, {seconds:.0f} s"]
    lines += [f"FAILED {job.name}: {job.lines[-1] if job.lines else job.state}"[:150] for job in bad[:5]]
    if len(bad) > 5:
        lines.append(f"FAILED too: {', '.join(job.name for job in bad[5:])}"[:150])
    for job in jobs:
        if job.name in ("step", "embedding") and "ms" in job.numbers:
            found = job.numbers
            launches = f", {found['launches']:.0f} launches" if "launches" in found else ""
            times = f"{found['plain_ms'] / found['ms']:.2f} x plain" if "plain_ms" in found else "plain not timed"
            checked = "right" if "errors" in found else "not checked"
            eager = f", EAGER: {found['reason'][:80]}" if found.get("reason") else ""
            lines.append(f"{job.name}: {found['ms']:.3f} ms, {times}{launches}, {checked}{eager}")
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seconds", type=float, default=96.0, help="for all of it (default: %(default)s)")
    parser.add_argument("--operators", type=lambda text: text.split(","), default=[], help="these alone")
    parser.add_argument("--prebuilt", type=Path, metavar="DIR", help="libraries built elsewhere, taken where they fit")
    parser.add_argument("--batch", type=int, default=512, help="of the step and the embedding")
    parser.add_argument("--limit", type=float, default=OPERATOR_LIMIT_S, help="seconds for an operator")
    parser.add_argument("--without", action="append", default=[], metavar="OP=IMPL")
    parser.add_argument("--config", action="append", default=[], metavar="[KERNEL=]N")
    parser.add_argument("--rehearse", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    choices = [word for one in options.without for word in ("--without", one)]
    choices += [word for one in options.config for word in ("--config", one)]
    look = Look(
        options.out, options.seconds, choices, options.operators, options.prebuilt, options.rehearse, options.limit,
        options.batch,
    )  # fmt: skip
    return look.run()


if __name__ == "__main__":
    sys.exit(main())
