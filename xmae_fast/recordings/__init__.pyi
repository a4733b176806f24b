from xmae_fast.recordings.pieces import Pieces as Pieces
from xmae_fast.recordings.reading import Reading as Reading
from xmae_fast.recordings.recording import Channel as Channel
from xmae_fast.recordings.recording import Recording as Recording
from xmae_fast.recordings.recording import RecordingError as RecordingError
from xmae_fast.recordings.sources import find_sources as find_sources
from xmae_fast.recordings.sources import read_recording as read_recording
from xmae_fast.recordings.stretches import Stretches as Stretches
