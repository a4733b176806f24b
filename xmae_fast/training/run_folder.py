"""The folder of a run: what lies where, and when it may be used again."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from xmae_fast.atomic import atomic_path
from xmae_fast.training.config import TrainCfg
from xmae_fast.training.yaml_files import import_yaml, read_yaml

RESUME = (False, True, "auto")
_NAMES = {"checkpoints", "config.yaml", "run.json", "metrics.csv", "tensorboard", "wandb", "nan_batch.pt"}


class RunFolder:
    """config.yaml, run.json, metrics.csv, checkpoints/ of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.last, self.best = self.checkpoints / "last.ckpt", self.checkpoints / "best.ckpt"
        self.config, self.about, self.metrics = path / "config.yaml", path / "run.json", path / "metrics.csv"

    def open(self, resume: bool | str, overwrite: bool) -> bool:
        """Make the folder ready for a run; whether it goes on from last.ckpt.

        Raises:
            FileExistsError: it is there, and neither `resume` nor `overwrite` is set; or it is no run's.
            FileNotFoundError: resume=True without last.ckpt. ValueError: resume and overwrite.
        """
        if resume not in RESUME:
            raise ValueError(f"resume: expected False, True or 'auto', got {resume!r}")
        if resume and overwrite:
            raise ValueError("resume, overwrite: expected at most one of them")
        if resume and self.last.is_file():
            return True
        if resume is True:
            raise FileNotFoundError(f"resume: expected a run to go on with, {self.last} does not exist")
        if self.path.exists() and any(self.path.iterdir()):
            if not (resume == "auto" or overwrite):
                raise FileExistsError(f"{self.path}: is there already; --resume goes on, --overwrite removes it first")
            foreign = {entry.name for entry in self.path.iterdir() if not entry.name.endswith(".tmp")} - _NAMES
            if foreign and not self.config.is_file():
                raise FileExistsError(f"{self.path}: expected the folder of a run, it holds {sorted(foreign)[0]!r}")
            shutil.rmtree(self.path)
        self.checkpoints.mkdir(parents=True)
        return False

    def write_config(self, cfg: TrainCfg) -> list[str]:
        """Write config.yaml; what changed against the one that was there, as "key: old -> new"."""
        now = cfg.to_dict()
        before = read_yaml(self.config) if self.config.is_file() else now
        with atomic_path(self.config) as temporary:
            temporary.write_text(import_yaml().safe_dump(now, sort_keys=False), encoding="utf-8")
        return [f"{key}: {before.get(key)!r} -> {now[key]!r}" for key in now if before.get(key) != now[key]]

    def write_about(self, about: dict[str, Any], start: dict[str, Any]) -> None:
        """Write run.json: `about` of this process, and `start` added to the list of the run's starts."""
        starts = json.loads(self.about.read_text(encoding="utf-8"))["starts"] if self.about.is_file() else []
        now = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **start}
        self._write(about | {"starts": [*starts, now]})

    def add_result(self, result: dict[str, Any]) -> None:
        """Add how the run stands to run.json."""
        self._write(json.loads(self.about.read_text(encoding="utf-8")) | {"result": result})

    def _write(self, about: dict[str, Any]) -> None:
        with atomic_path(self.about) as temporary:
            temporary.write_text(json.dumps(about, indent=2, default=str) + "\n", encoding="utf-8")
