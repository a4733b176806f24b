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
__getattr__, __dir__, __all__ = lazy_names(__name__, _HOME)
