"""Processes with a time limit whose output is kept and, line by line, passed on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_LOG_BYTES = 12 << 20  # of all logs together: a file that travels back from a lent machine may have 16 MiB
POLL_S = 0.05
TERM_S = 2.0  # between SIGTERM and SIGKILL
Say = Callable[[str], None]


def environment(**extra: str) -> dict[str, str]:
    """Of every process started here."""
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"} | extra


def end_in_words(code: int) -> str:
    """How a process ended: "exit code 3", or "signal 6 (SIGABRT)"."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"


class Process:
    """A command in a session of its own, so that what it starts ends with it.

    Args:
        command: its words.
        limit_s: it is killed when it has run that long.
        say: hears each line of its output that begins with `mark`, without it, as soon as it is there.
        mark: '' for every line.
        extra: environment variables beside those of every process here.
        append_to: where its output is written as it comes; otherwise it is kept for `output` alone.
    """

    def __init__(
        self,
        command: list[str],
        limit_s: float,
        say: Say | None = None,
        mark: str = "",
        extra: Mapping[str, str] | None = None,
        append_to: Path | None = None,
    ) -> None:
        self.limit_s, self.say, self.mark = limit_s, say, mark
        self.began, self.timed_out, self.code = time.monotonic(), False, 0
        self._file = tempfile.NamedTemporaryFile(suffix=".log") if append_to is None else open(append_to, "ab")  # noqa: SIM115
        self._start = self._told = self._file.seek(0, os.SEEK_END)
        try:
            self._process = subprocess.Popen(
                command, stdout=self._file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=ROOT,
                env=environment(**(extra or {})), start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._process = None
            self.code = 127
            self._file.write(f"{error}\n".encode())
            self._file.flush()
        self.seconds = 0.0

    def finished(self) -> bool:
        """Whether it has ended, killing it if its time is over; passes new lines on."""
        if self._process is None:
            return True
        code = self._process.poll()
        self.seconds = time.monotonic() - self.began
        if code is None and self.seconds > self.limit_s:
            self.timed_out = True
            self.kill()
            code = self._process.poll()
        self._pass_on(last=code is not None)
        if code is None:
            return False
        self.code = code
        return True

    def kill(self, term_s: float = TERM_S) -> None:
        """End it and what it has started: by SIGTERM, whereupon it may end processes of its own, then by SIGKILL."""
        if self._process is None or self._process.poll() is not None:
            return
        if term_s > 0:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(term_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def wait(self, meanwhile: Callable[[], None] | None = None) -> None:
        """Until it has ended; `meanwhile` is called again and again."""
        while not self.finished():
            if meanwhile is not None:
                meanwhile()
            time.sleep(POLL_S)

    @property
    def state(self) -> str:
        """ "passed", "failed (...)" or "timed out after N s"."""
        if self.timed_out:
            return f"timed out after {self.limit_s:.0f} s"
        return "passed" if self.code == 0 else f"failed ({end_in_words(self.code)})"

    @property
    def output(self) -> str:
        """All of its output by now."""
        return Path(self._file.name).read_bytes()[self._start :].decode(errors="replace")

    def _pass_on(self, last: bool) -> None:
        if self.say is None:
            return
        with open(self._file.name, "rb") as file:
            file.seek(self._told)
            new = file.read()
        end = len(new) if last else new.rfind(b"\n") + 1
        self._told += end
        for line in new[:end].decode(errors="replace").splitlines():
            if line.startswith(self.mark):
                self.say(line.removeprefix(self.mark))


def kill_on_term(running: Callable[[], Iterable[Process]]) -> None:
    """From now on SIGTERM ends these processes, which have sessions of their own, and then this one."""

    def end(*_: object) -> None:
        for process in running():
            process.kill()
        os._exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)


class Logs:
    """One file for the outputs of all processes, each under a heading, no longer than MOST_LOG_BYTES."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, name: str, text: str) -> None:
        room = MOST_LOG_BYTES - (self.path.stat().st_size if self.path.exists() else 0)
        if len(text) > room // 3:  # the beginning and, more of it, the end
            part = max(room // 9, 0)
            text = f"{text[:part]}\n[... left out ...]\n{text[-2 * part :] if part else ''}"
        with open(self.path, "a", errors="replace") as file:
            file.write(f"\n===== {name} =====\n{text.rstrip()}\n")


def last_lines(text: str, count: int, width: int = 200) -> list[str]:
    """The last lines that say something, each cut to `width`."""
    return [line.rstrip()[:width] for line in text.splitlines() if line.strip()][-count:]
