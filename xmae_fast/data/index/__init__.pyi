"""For type checkers: the public names, which the package itself imports when they are first used."""

from xmae_fast.data.index.segment_index import SegmentIndex as SegmentIndex
from xmae_fast.data.index.segment_index import open_index as open_index
