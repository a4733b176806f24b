"""Raw recordings to segments and shards."""

from importlib import import_module

_HOME = {
    "Channel": "recording",
    "PrepareReport": "preparing",
    "Reading": "recording",
    "Recording": "recording",
    "RecordingError": "recording",
    "Segments": "recipe",
    "apply_recipe": "recipe",
    "prepare": "preparing",
    "read_recording": "sources",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
