"""Segments of synchronised PPG and ECG: loaders, shards and their layouts, splits, and the simulator."""

from importlib import import_module

_HOME = {
    "AugmentDraw": "augment",
    "Layout": "layout",
    "PlainSegmentDataset": "plain",
    "SegmentDataset": "dataset",
    "SegmentIndex": "index",
    "SegmentKey": "shards",
    "SegmentLoader": "loader",
    "ShardChangedError": "segments",
    "Simulation": "simulator",
    "SimulationCfg": "simulator_cfg",
    "apply_augmentation": "augment",
    "draw_augmentation": "augment",
    "fetch": "remote",
    "load_segments": "plain",
    "open_index": "index",
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
