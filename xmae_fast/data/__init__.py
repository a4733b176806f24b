"""Segments of synchronised PPG and ECG: loaders, shards and their layouts, splits, and the simulator."""

from xmae_fast.lazy import lazy_names

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
__getattr__, __dir__ = lazy_names(__name__, _HOME)
