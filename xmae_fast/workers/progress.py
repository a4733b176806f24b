"""The functions that long work calls to tell how far it has come."""

from collections.abc import Callable

# progress(stage, done, total): what is being done (a name, or the file that is worked on), how many of its units are
# done (segments, bytes, recordings or windows), and how many there are, None where that is not known.
Progress = Callable[[str, int, int | None], object]

# tell(done, total): the same for work that has one stage.
StageProgress = Callable[[int, int | None], object]
