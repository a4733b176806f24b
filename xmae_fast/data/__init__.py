"""Segments of synchronised PPG and ECG: the simulator, the published shard layout, splits, and the plain loader."""

from importlib import import_module

_HOME = {
    "AugmentDraw": "augment",
    "PlainSegmentDataset": "plain",
    "SegmentKey": "shards",
    "Simulation": "simulator",
    "SimulationCfg": "simulator_cfg",
    "apply_augmentation": "augment",
    "draw_augmentation": "augment",
    "load_segments": "plain",
    "parse_key": "shards",
    "read_index": "shards",
    "simulate": "simulator",
    "split_subjects": "splits",
    "write_shard": "shards",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
