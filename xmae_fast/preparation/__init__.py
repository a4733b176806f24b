"""Makes segments and shards of raw recordings."""

from xmae_fast._optional import lazy_names

_HOME = {
    "Channel": "recording",
    "PrepareReport": "report",
    "Reading": "recording",
    "Recording": "recording",
    "RecordingError": "recording",
    "Segments": "recipe",
    "apply_recipe": "recipe",
    "prepare": "preparing",
    "read_recording": "sources",
}
__all__ = list(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
