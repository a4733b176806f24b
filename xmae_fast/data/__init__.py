"""Segments of synchronised PPG and ECG: loaders, shards and their layouts, and splits.

Preparation and simulation, which write shards, are packages of their own; their public names can be imported from here
too.
"""

from xmae_fast._optional import lazy_names

_HOME = {
    "AugmentDraw": "augment",
    "Channel": "xmae_fast.recordings",
    "Layout": "formats.layout",
    "PlainSegmentDataset": "plain",
    "PrepareReport": "xmae_fast.preparation",
    "Reading": "xmae_fast.recordings",
    "Recording": "xmae_fast.recordings",
    "RecordingError": "xmae_fast.recordings",
    "RepackReport": "repacking.repack",
    "SegmentDataset": "dataset",
    "SegmentIndex": "index.segment_index",
    "SegmentKey": "formats.shards",
    "SegmentLoader": "loader",
    "ShardChangedError": "index.open_shards",
    "ShardReport": "inspection.inspect",
    "Simulation": "xmae_fast.simulation.simulator",
    "SimulationCfg": "xmae_fast.simulation.config",
    "apply_augmentation": "augment",
    "apply_recipe": "xmae_fast.preparation",
    "draw_augmentation": "augment",
    "draw_examples": "inspection.picture",
    "fetch": "remote.fetch",
    "inspect_shards": "inspection.inspect",
    "load_segments": "plain",
    "open_index": "index.segment_index",
    "parse_key": "formats.shards",
    "prepare": "xmae_fast.preparation",
    "print_report": "inspection.report",
    "read_index": "formats.shards",
    "read_recording": "xmae_fast.recordings",
    "repack": "repacking.repack",
    "simulate": "xmae_fast.simulation.simulator",
    "split_subjects": "splits",
    "verify_packed": "formats.packed",
    "write_inspection_page": "inspection.page",
    "write_preparation_page": "xmae_fast.preparation",
    "write_shard": "formats.shards",
}
__getattr__, __dir__, __all__ = lazy_names(__name__, _HOME)
