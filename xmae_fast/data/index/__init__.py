"""Where each segment of each shard lies: a scan of every shard, kept in a file beside it, and the index made of them.

The names are imported when first used: a process that scans loads what it needs alone.
"""

from xmae_fast._optional import lazy_names

_HOME = {"SegmentIndex": "segment_index", "open_index": "segment_index"}
__all__ = list(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
