"""For type checkers: the public names, which the package itself imports when they are first used."""

from xmae_fast.preparation.preparing import prepare as prepare
from xmae_fast.preparation.recipe import Segments as Segments
from xmae_fast.preparation.recipe import apply_recipe as apply_recipe
from xmae_fast.preparation.recording import Channel as Channel
from xmae_fast.preparation.recording import Reading as Reading
from xmae_fast.preparation.recording import Recording as Recording
from xmae_fast.preparation.recording import RecordingError as RecordingError
from xmae_fast.preparation.report import PrepareReport as PrepareReport
from xmae_fast.preparation.sources import read_recording as read_recording
