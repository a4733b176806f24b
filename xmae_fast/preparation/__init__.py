"""Makes segments and shards of raw recordings."""

from xmae_fast._optional import lazy_names

_HOME = {
    "Channel": "xmae_fast.recordings",
    "PrepareReport": "report",
    "Reading": "xmae_fast.recordings",
    "Recording": "xmae_fast.recordings",
    "RecordingError": "xmae_fast.recordings",
    "Segments": "recipe",
    "apply_recipe": "recipe",
    "prepare": "preparing",
    "read_recording": "xmae_fast.recordings",
    "write_preparation_page": "page",
}
__getattr__, __dir__, __all__ = lazy_names(__name__, _HOME)
