"""Segments of synchronised PPG and ECG: loaders, shards and their layouts, splits, and the simulator."""

from importlib import import_module

_HOME = {
    "AugmentDraw": "augment",
    "Channel": "preparation",
    "Layout": "layout",
    "PlainSegmentDataset": "plain",
    "PrepareReport": "preparation",
    "Reading": "preparation",
    "Recording": "preparation",
    "RecordingError": "preparation",
    "RepackReport": "repacking",
    "SegmentDataset": "dataset",
    "SegmentIndex": "index",
    "SegmentKey": "shards",
    "SegmentLoader": "loader",
    "ShardChangedError": "open_shards",
    "ShardReport": "inspection",
    "Simulation": "simulator",
    "SimulationCfg": "simulator_cfg",
    "apply_augmentation": "augment",
    "apply_recipe": "preparation",
    "draw_augmentation": "augment",
    "draw_examples": "inspection_picture",
    "fetch": "remote",
    "inspect_shards": "inspection",
    "load_segments": "plain",
    "open_index": "index",
    "parse_key": "shards",
    "prepare": "preparation",
    "print_report": "inspection_report",
    "read_index": "shards",
    "read_recording": "preparation",
    "repack": "repacking",
    "simulate": "simulator",
    "split_subjects": "splits",
    "verify_packed": "packed",
    "write_shard": "shards",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
