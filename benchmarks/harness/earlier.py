"""What an earlier, unfinished run has left in its JSON file, for the run that goes on with it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.harness.contest import BROKEN, FAILED, OK, OURS, RUNNING, Row
from benchmarks.harness.machine import Machine

Known = dict[tuple[str, str], Row]  # by part and name


class Earlier:
    """An earlier run; an empty one where there is no file.

    Args:
        path: the file that `run.py --json` wrote.
        after: how that run ended, if this one takes its place: what failed or was running then is not run again.

    Raises:
        ValueError: it is no such file.
    """

    def __init__(self, path: Path | None, after: str = "") -> None:
        self.path, self.after = path, after
        self.payload: dict[str, Any] = {}
        if path is not None and path.exists():
            try:
                self.payload = json.loads(path.read_text())
                self.suites: dict[str, list[dict]] = self.payload["suites"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}: expected what --json wrote: {error}") from error
        else:
            self.suites = {}

    def mismatch(self, machine: Machine, settings: dict[str, Any]) -> str:
        """Why its times cannot stand beside those of this run, or ''."""
        if not self.payload:
            return ""
        was, found = self.payload["machine"], vars(machine)
        for name in ("gpu", "torch", "cpu", "threads") if not machine.gpu else ("gpu", "torch"):
            if was[name] != found[name]:
                return f"{self.path} was measured with {name} {was[name]!r}, this machine has {found[name]!r}"
        different = [name for name, value in settings.items() if self.payload["settings"].get(name, False) != value]
        if different:
            return f"{self.path} was measured with other settings: {', '.join(different)}"
        return ""

    def known(self, suite: str, title: str) -> Known:
        """Rows of a group that are not run again: those that are timed, and after an end those that failed."""
        found: Known = {}
        for group in self.suites.get(suite, []):
            for values in group["rows"] if group["title"] == title else []:
                row = Row.from_dict(values)
                if row.status == RUNNING and self.after:
                    row.status = FAILED if row.role == OURS else BROKEN
                    row.note = f"the process {self.after} while it was built, checked or first timed"
                if (row.status == OK and row.seconds) or (self.after and row.status in (FAILED, BROKEN)):
                    found[row.part, row.name] = row
        return found

    def forget_failures(self, suites: Iterable[str]) -> None:
        """Rows of these suites that were not timed are tried again, whatever happens before their turn."""
        for group in (group for name in suites for group in self.suites.get(name, ())):
            group["rows"] = [row for row in group["rows"] if row["status"] == OK]

    def rest(self, done: dict[str, list[str]]) -> dict[str, list[dict]]:
        """Its groups by suite, as its file has them, without those whose titles are in `done`, which are by suite."""
        return {
            name: [group for group in groups if group["title"] not in done.get(name, ())]
            for name, groups in self.suites.items()
        }
