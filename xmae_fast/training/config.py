"""The configuration of a pretraining run: `TrainCfg`, its dictionary form, and checks whose errors name the key."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

from xmae_fast._config_checks import (
    Check,
    between,
    check_all,
    is_number,
    one_of,
    positive,
    refuse_unknown,
    whole,
)
from xmae_fast._configs import config_path
from xmae_fast._yaml import read_yaml, with_overrides
from xmae_fast.backend import IMPLS, check_choice
from xmae_fast.config import MODEL_PARAMS, ModelCfg, cfg_from_dict
from xmae_fast.data.formats.layout import Layout
from xmae_fast.data.options import quality_pair
from xmae_fast.ops.random_masking import MODES
from xmae_fast.training.curriculum import Curriculum, make_curriculum
from xmae_fast.training.simulation_source import PREFIX, SimulationSource, is_simulated, simulation_source

SYNONYMS = {
    "learning_rate": "lr", "max_lr": "lr", "max_epochs": "epochs", "num_epochs": "epochs", "wd": "weight_decay",
    "mask_ratio": "mask_ratio_ecg", "masking_mode": "mask_mode", "early_stopping_patience": "patience",
    "data_path": "data", "data_paths": "data", "data_dir": "data", "paths": "data", "warmup_ratio": "warmup",
    "warmup_fraction": "warmup", "gradient_accumulation": "accumulate", "accumulate_grad_batches": "accumulate",
    "log_every_n_steps": "log_every", "sync_bn": "sync_batchnorm", "use_curriculum": "use_cl",
}  # fmt: skip
PRECISIONS = ("auto", "bf16", "float32")
_AS_LIGHTNING = {"bf16-mixed": "bf16", "32-true": "float32", "32": "float32", 32: "float32"}  # its names for them


@dataclass
class TrainCfg:
    """Configuration of a pretraining run. Defaults are the published values where there are any.

    Signals and model:
        sampling_freq: Hz.
        seg_len: seconds of a segment.
        source, model_params: see `xmae_fast.config.cfg_from_dict`.
    Data:
        data: files, folders, patterns or fsspec addresses of shards. Relative ones start at the working directory.
            "simulation:" or "simulation:SEED" trains on an endless stream of simulated patients, without files.
        simulation: of such a stream: `segments` an epoch, `val_segments`, `workers`, and in `population` what is
            simulated; see `SimulationSource`. Quality, augment, layout and shuffle are of shards alone.
        val_data: shards to validate on, and all of `data` is trained on; None splits `data` by subject.
        quality: that both signals of a segment must reach.
        augment: True, False or "published".
        swap_signals: PPG takes the place of ECG and ECG that of PPG, so that PPG is reconstructed from ECG.
        layout: arguments of `xmae_fast.data.Layout`; None finds the layout.
        shuffle, cache_dir, num_threads, exclude_prefixes: as for `SegmentLoader`.
        resident: copy the segments to train on to each process's device, where batches are then made.
    Task:
        mask_mode, mask_ratio_ecg, mask_ratio_ppg: see `random_masking`.
        mwm_ecg: weight of the loss.
        truth_weight: weight of a further loss, of what a simulation knows of each segment (see `TruthHead`); 0 without
            it. For simulated patients alone.
        use_cl: whether the mask ratio follows a curriculum; None follows one if `curriculum` is given.
        curriculum: see `make_curriculum`.
    Optimisation:
        lr, weight_decay, betas: as for AdamW.
        warmup: share of the run in which lr rises, before it falls to 0 along a cosine.
        batch_size: segments of one optimiser step, in all processes together.
        accumulate: parts into which each process cuts its share of a batch; it computes one after the other.
        epochs, max_steps, max_minutes: the run ends at whichever comes first, and lr reaches 0 there.
        patience: validations without a better val_loss before the run stops; None never stops it.
        sync_batchnorm: BatchNorm takes its statistics over all processes; False takes them in each process alone.
        impl: as for xMAE.
        precision: "bf16" autocast, "float32", or "auto" for bf16 on CUDA and float32 elsewhere; Lightning's names
            "bf16-mixed", "32-true" and "32" are understood too. Weights and their optimiser stay in float32.
        graph: False never captures a CUDA graph.
        seed: of the split, order, augmentation, weights, masks and dropout.
    Machines:
        accelerator, devices, num_nodes: as for lightning.Fabric; under torchrun its own numbers count.
    Records:
        checkpoint_every: steps after which last.ckpt is written again; it is also written after each validation.
        keep_every: epochs after which a further checkpoint is kept; 0 keeps none.
        log_every: steps after which a row is written.
        tensorboard: whether to write events for TensorBoard, where it is installed.
        wandb: whether to log to Weights & Biases; or arguments of Lightning's WandbLogger.

    Raises:
        ValueError: a value is wrong; the message names the key, what was expected and what came.
    """

    data: list[str]
    sampling_freq: float = 100
    seg_len: float = 10
    source: str = "ppg+ecg"
    model_params: dict[str, Any] = field(default_factory=dict)
    val_data: list[str] | None = None
    simulation: dict[str, Any] | None = None
    quality: float | list[float] = 0.9
    augment: bool | str = True
    swap_signals: bool = False
    shuffle: bool | str = True
    layout: dict[str, Any] | None = None
    exclude_prefixes: list[str] = field(default_factory=lambda: ["vital_"])
    cache_dir: str | None = None
    num_threads: int | None = None
    resident: bool = False
    mask_mode: str = "anchor"
    mask_ratio_ecg: float = 0.8
    mask_ratio_ppg: float = 0.0
    mwm_ecg: float = 1.0
    truth_weight: float = 0.0
    use_cl: bool | None = None
    curriculum: dict[str, Any] | None = None
    lr: float = 3e-4
    weight_decay: float = 0.01
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    warmup: float = 0.1
    batch_size: int = 512
    accumulate: int = 1
    epochs: int = 37
    max_steps: int | None = None
    max_minutes: float | None = None
    patience: int | None = 17
    sync_batchnorm: bool = False
    impl: str = "auto"
    precision: str = "auto"
    graph: bool = True
    seed: int = 77
    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    checkpoint_every: int = 1000
    keep_every: int = 0
    log_every: int = 50
    tensorboard: bool = True
    wandb: bool | dict[str, Any] = False

    def __post_init__(self) -> None:
        for name in ("data", "val_data"):
            if isinstance(getattr(self, name), str):
                setattr(self, name, [getattr(self, name)])
        if isinstance(self.precision, (str, int)):
            self.precision = _AS_LIGHTNING.get(self.precision, self.precision)
        check_all(_CHECKS, self)
        if self.augment == "published" and self.val_data is not None:
            raise ValueError("augment: 'published' belongs to the split of data, expected true or false with val_data")
        quality_pair(self.quality)
        model = self.model_cfg()
        if self.simulated:
            self.make_simulation()
            if self.resident:
                raise ValueError("resident: expected false for a simulation, which has no shards, got true")
            if self.truth_weight and (not model.use_cross_bridge or model.source != "ppg+ecg" or self.swap_signals):
                raise ValueError("truth_weight: expected 0 unless the model has a bridge and signals are not swapped")
        elif self.truth_weight:
            raise ValueError(f"truth_weight: expected 0 with shards, which have no truth, got {self.truth_weight}")
        elif self.simulation is not None:
            raise ValueError(f"simulation: expected {PREFIX!r} in data, or no such key, got data {self.data}")
        self.make_layout()
        self.make_curriculum()

    def model_cfg(self) -> ModelCfg:
        """The configuration of the model. Unknown `model_params` are refused, as they may be misspelt."""
        if isinstance(self.model_params, Mapping):
            refuse_unknown(self.model_params, list(MODEL_PARAMS), "model_params")
        cfg = cfg_from_dict(
            {"sampling_freq": self.sampling_freq, "seg_len": self.seg_len, "source": self.source,
             "model_params": self.model_params}
        )  # fmt: skip
        if cfg.source == "ppg":
            raise ValueError("source: expected 'ppg+ecg' or 'ecg', because pretraining reconstructs ECG, got 'ppg'")
        return cfg

    @property
    def simulated(self) -> bool:
        """Whether the run trains on simulated patients and not on shards."""
        return is_simulated(self.data)

    def make_simulation(self) -> SimulationSource:
        """The simulated patients of a run whose `data` asks for them."""
        if self.val_data is not None:
            raise ValueError(f"val_data: expected null with {PREFIX!r}, which simulates its own, got {self.val_data}")
        return simulation_source(
            self.data, self.simulation, seed=self.seed, sampling_freq=self.sampling_freq, seg_len=self.seg_len
        )

    def make_layout(self) -> Layout | None:
        """The layout of the shards; None where it is to be found."""
        if self.layout is None:
            return None
        refuse_unknown(self.layout, [f.name for f in fields(Layout)], "layout")
        return Layout(**self.layout)

    def make_curriculum(self) -> Curriculum:
        """How the mask ratio changes in the run; without a curriculum it is constant."""
        used = self.curriculum is not None if self.use_cl is None else self.use_cl
        return make_curriculum(self.curriculum or {} if used else None, self.mask_ratio_ecg)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, which `train_cfg_from_dict` reads back."""
        return asdict(self)


def train_cfg_from_dict(cfg: Mapping[str, Any]) -> TrainCfg:
    """Make a TrainCfg of the published dictionary (YAML) form.

    Args:
        cfg: values by key. Some other common names of keys are understood, see `SYNONYMS`.

    Raises:
        ValueError: a key is unknown (the message says the nearest known one) or given under two names, or a value is
            wrong.
        TypeError: `cfg` is no mapping.
    """
    if not isinstance(cfg, Mapping):
        raise TypeError(f"cfg: expected a dictionary, got {type(cfg).__name__}")
    values: dict[str, Any] = {}
    known = [f.name for f in fields(TrainCfg)]
    for key, value in cfg.items():
        name = SYNONYMS.get(key, key)
        if name in values:
            raise ValueError(f"{name}: expected once, got it under two names ({key!r} means {name!r})")
        values[name] = value
    refuse_unknown(values, known, "configuration", [*known, *SYNONYMS])
    for f in fields(TrainCfg):  # an empty YAML value means the default where None means nothing
        if f.name in values and values[f.name] is None and not _allows_none(f.name):
            del values[f.name]
    if not values.get("data"):
        raise ValueError("data: expected files, folders, patterns or addresses of shards (--set data=shards), got none")
    return TrainCfg(**values)


def _allows_none(name: str) -> bool:
    if name in ("patience", "layout", "curriculum", "simulation"):
        return True
    default = next(f for f in fields(TrainCfg) if f.name == name).default
    return default is None and default is not MISSING


def _is_choice(x: object) -> bool:
    try:
        check_choice(x)
    except ValueError:
        return False
    return True


def _is_strings(x: object) -> bool:
    return isinstance(x, (list, tuple)) and all(isinstance(item, str) for item in x)


_CHECKS: dict[str, Check] = {
    "data": (lambda x: _is_strings(x) and len(x) > 0, "a list of files, folders, patterns or addresses"),
    "val_data": (lambda x: x is None or (_is_strings(x) and len(x) > 0), "a list like data's, or null"),
    "model_params": (lambda x: isinstance(x, Mapping), "a mapping"),
    "simulation": (lambda x: x is None or isinstance(x, Mapping), "a mapping or null"),
    "layout": (lambda x: x is None or isinstance(x, Mapping), "a mapping or null"),
    "augment": one_of(True, False, "published"),
    "swap_signals": one_of(True, False),
    "shuffle": one_of(True, False, "blocks"),
    "exclude_prefixes": (_is_strings, "a list of beginnings of subjects' names"),
    "cache_dir": (lambda x: x is None or isinstance(x, str), "a folder or null"),
    "num_threads": whole(1, none=True),
    "resident": one_of(True, False),
    "mask_mode": one_of(*MODES),
    "mask_ratio_ecg": between(0, 1),
    "mask_ratio_ppg": between(0, 1),
    "mwm_ecg": positive(),
    "truth_weight": (lambda x: is_number(x) and x >= 0, "a number, at least 0"),
    "use_cl": one_of(None, True, False),
    "curriculum": (lambda x: x is None or isinstance(x, Mapping), "a mapping or null"),
    "lr": positive(),
    "weight_decay": between(0, 1),
    "betas": (
        lambda x: isinstance(x, (list, tuple)) and len(x) == 2 and all(is_number(b) and 0 <= b < 1 for b in x),
        "two numbers in [0, 1)",
    ),
    "warmup": between(0, 1),
    "batch_size": whole(1),
    "accumulate": whole(1),
    "epochs": whole(1),
    "max_steps": whole(1, none=True),
    "max_minutes": positive(none=True),
    "patience": whole(1, none=True),
    "sync_batchnorm": one_of(True, False),
    "impl": (_is_choice, "'auto' or one of " + ", ".join(map(repr, IMPLS)) + ", then 'conv_stem=cuda' or the like"),
    "precision": one_of(*PRECISIONS),
    "graph": one_of(True, False),
    "seed": whole(0),
    "accelerator": (lambda x: isinstance(x, str), "a name such as 'cpu' or 'cuda'"),
    "devices": (lambda x: x == "auto" or whole(1)[0](x), "a whole number >= 1 or 'auto'"),
    "num_nodes": whole(1),
    "checkpoint_every": whole(1),
    "keep_every": whole(0),
    "log_every": whole(1),
    "tensorboard": one_of(True, False),
    "wandb": (lambda x: isinstance(x, (bool, Mapping)), "true, false or a mapping"),
}


def read_train_cfg(path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> TrainCfg:
    """Read a TrainCfg from a YAML file.

    Args:
        path: the file, or the name of a configuration that comes with the package, such as "xmae_small".
        overrides: texts "key=value" or "key.key=value" with the value in YAML, which are applied in their order.

    Raises:
        FileNotFoundError: there is no such file or name; the message lists the names.
        ValueError: the file holds no YAML mapping, or what `train_cfg_from_dict` refuses.
    """
    return train_cfg_from_dict(with_overrides(read_yaml(config_path(path)), overrides))
