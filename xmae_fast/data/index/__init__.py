"""Where each segment of each shard lies: scans of shards, kept in files beside them, and the index made of these.

Names are imported when they are first used, so that a process that scans imports only what it needs.
"""

from xmae_fast._optional import lazy_names

_HOME = {"SegmentIndex": "segment_index", "open_index": "segment_index"}
__getattr__, __dir__, __all__ = lazy_names(__name__, _HOME)
