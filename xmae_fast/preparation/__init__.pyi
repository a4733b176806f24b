"""For type checkers: the public names, which the package itself imports when they are first used."""

from xmae_fast.preparation.page import write_preparation_page as write_preparation_page
from xmae_fast.preparation.preparing import prepare as prepare
from xmae_fast.preparation.recipe import Segments as Segments
from xmae_fast.preparation.recipe import apply_recipe as apply_recipe
from xmae_fast.preparation.report import PrepareReport as PrepareReport
from xmae_fast.recordings import Channel as Channel
from xmae_fast.recordings import Reading as Reading
from xmae_fast.recordings import Recording as Recording
from xmae_fast.recordings import RecordingError as RecordingError
from xmae_fast.recordings import read_recording as read_recording
