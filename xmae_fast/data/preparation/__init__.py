"""Raw recordings to segments and shards."""

from xmae_fast.data.preparation.extras import need

need("scipy.signal", "Preparation")

from xmae_fast.data.preparation.preparing import PrepareReport, prepare  # noqa: E402
from xmae_fast.data.preparation.recipe import Segments, apply_recipe  # noqa: E402
from xmae_fast.data.preparation.recording import Channel, Reading, Recording, RecordingError  # noqa: E402
from xmae_fast.data.preparation.sources import read_recording  # noqa: E402

__all__ = [
    "Channel",
    "PrepareReport",
    "Reading",
    "Recording",
    "RecordingError",
    "Segments",
    "apply_recipe",
    "prepare",
    "read_recording",
]
