"""The folder of a run: its files, and when it may be used again."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from xmae_fast._files import LOCK, Lock, atomic_path, is_json_of, matching, read_json, remove_own
from xmae_fast._yaml import import_yaml, read_yaml
from xmae_fast.training.config import TrainCfg, train_cfg_from_dict

RESUME = (False, True, "auto")
_WANDB = r"wandb/(latest-run|debug(-internal)?\.log|(offline-)?run-\d{8}_\d{6}-[^/]+(/.*)?)"
_FILES = matching(
    r"config\.yaml", r"run\.json", r"metrics\.csv", r"nan_batch(_\d+)?\.pt", r"checkpoints/(last|best|epoch-\d+)\.ckpt",
    r"tensorboard/(events\.out\.tfevents\..*|hparams\.yaml)", _WANDB,
)  # fmt: skip


class RunFolder:
    """The folder of one run, with config.yaml, run.json, metrics.csv and checkpoints/."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.last, self.best = self.checkpoints / "last.ckpt", self.checkpoints / "best.ckpt"
        self._lock: Lock | None = None
        self.config, self.about, self.metrics = path / "config.yaml", path / "run.json", path / "metrics.csv"

    def open(self, resume: bool | str, overwrite: bool) -> bool:
        """Make the folder ready for a run; until `close` no other process may use it.

        Args:
            resume, overwrite: as for `pretrain`.

        Returns:
            Whether the run goes on from last.ckpt.

        Raises:
            FileExistsError: the folder is there, and neither `resume` nor `overwrite` is set; or it holds no run.
            FileNotFoundError: there is no last.ckpt, and `resume` is True.
            ValueError: `resume` and `overwrite` are both set.
            BlockingIOError: another run writes to the folder.
        """
        if resume not in RESUME:
            raise ValueError(f"resume: expected False, True or 'auto', got {resume!r}")
        if resume and overwrite:
            raise ValueError("resume, overwrite: expected at most one of them")
        if resume is True and not self.last.is_file():
            raise FileNotFoundError(f"resume: expected a run to go on with, {self.last} does not exist")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(self.path)
        try:
            return self._begin(resume, overwrite)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the lock of the folder."""
        if self._lock is not None:
            self._lock.release()

    def _begin(self, resume: bool | str, overwrite: bool) -> bool:
        if resume and self.last.is_file():
            return True
        if any(entry.name != LOCK for entry in self.path.iterdir()):
            if not (resume == "auto" or overwrite or self._never_began()):
                how = self._how_it_stands()
                raise FileExistsError(f"{self.path}: {how}; --resume goes on, --overwrite removes it first")
            self._remove()
        self._write({"starts": []})  # from here on it is known to be the folder of a run
        self.checkpoints.mkdir(exist_ok=True)
        return False

    def _never_began(self) -> bool:
        """Whether the folder is that of a run that ended before its first step, of which nothing is worth keeping."""
        about, rows = read_json(self.about) or {}, []
        with suppress(OSError):
            rows = self.metrics.read_text(encoding="utf-8").splitlines()
        kept = [*self.path.glob("checkpoints/*.ckpt"), *self.path.glob("nan_batch*.pt")]
        return "starts" in about and "result" not in about and len(rows) < 2 and not kept

    def _how_it_stands(self) -> str:
        result = (read_json(self.about) or {}).get("result") or {}
        if result.get("status") == "finished":
            return f"is finished, after {result['steps']:,} steps"
        return "is there already"

    def _remove(self) -> None:
        """Remove what a run wrote. Other files stay in the folder."""
        if not (is_json_of(self.about, "starts") or self._is_own_config()):
            names = (path for path in self.path.rglob("*") if not path.is_dir() and path != self.path / LOCK)
            foreign = sorted(path.relative_to(self.path).as_posix() for path in names if not path.name.endswith(".tmp"))
            if foreign:
                raise FileExistsError(f"{self.path}: expected the folder of a run, it holds {foreign[0]!r}")
        remove_own(self.path, _FILES)
        for path in (self.config, self.about, self.metrics, self.last, self.best):
            if os.path.lexists(path):
                raise FileExistsError(f"{self.path}: {path.name} is in the way and is no file of a run")

    def _is_own_config(self) -> bool:
        """Whether `write_config` wrote config.yaml: then it is of a run that was killed before it had run.json."""
        try:
            cfg = train_cfg_from_dict(read_yaml(self.config))
            return self.config.read_text(encoding="utf-8") == _dumped(cfg)
        except (OSError, ValueError, TypeError):
            return False

    def write_config(self, cfg: TrainCfg) -> list[str]:
        """Write config.yaml; the changes to the one that was there, as texts "key: old -> new"."""
        now = cfg.to_dict()
        before = read_yaml(self.config) if self.config.is_file() else now
        with atomic_path(self.config) as temporary:
            temporary.write_text(_dumped(cfg), encoding="utf-8")
        return [f"{key}: {before.get(key)!r} -> {now[key]!r}" for key in now if before.get(key) != now[key]]

    def write_about(self, about: dict[str, Any], start: dict[str, Any]) -> None:
        """Write run.json: what is known of the run in this process, and one more in the list of its starts."""
        starts = json.loads(self.about.read_text(encoding="utf-8"))["starts"] if self.about.is_file() else []
        now = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **start}
        self._write(about | {"starts": [*starts, now]})

    def add_result(self, result: dict[str, Any]) -> None:
        """Add the result of the run to run.json."""
        self._write(json.loads(self.about.read_text(encoding="utf-8")) | {"result": result})

    def _write(self, about: dict[str, Any]) -> None:
        with atomic_path(self.about) as temporary:
            temporary.write_text(json.dumps(about, indent=2, default=str) + "\n", encoding="utf-8")


def _dumped(cfg: TrainCfg) -> str:
    return import_yaml().safe_dump(cfg.to_dict(), sort_keys=False)
