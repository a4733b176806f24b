"""What `prepare` reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from xmae_fast.preparation.telling import grouped
from xmae_fast.recordings.saying import printable

RECOMMENDED = 0.9  # the quality that loaders ask for by default


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` has made.

    Args:
        output: the folder.
        shards: their names in this folder.
        segments: how many they hold.
        usable: segments whose qualities are all at least 0.9.
        subjects: how many subjects the segments have.
        recordings: R, how many recordings were found.
        rejected: windows that are no segments, by reason.
        errors: what is wrong with a recording, by its name.
        ignored: files in the folders that are no recordings, by suffix.
        settings: what was asked for.
        versions: of the packages that the values depend on.
        notes: what a user should know of a recording, by its name: what looks wrong, and how its file was understood.
        resumed: recordings that an earlier call had finished.
        seconds: how long the call took; 0 if the output was finished already.
    """

    output: str
    shards: list[str]
    segments: int
    usable: int
    subjects: int
    recordings: int
    rejected: dict[str, int]
    errors: dict[str, str]
    ignored: dict[str, int]
    settings: dict
    versions: dict[str, str]
    notes: dict[str, list[str]] = field(default_factory=dict)
    resumed: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict:
        """The fields by name, for JSON."""
        return asdict(self)

    def describe(self) -> str:
        """Says in a few lines what was made."""
        rejected = ", ".join(f"{count:,} {reason}" for reason, count in self.rejected.items()) or "none"
        judged = "the PPG" if self.settings.get("signals") == "ppg" else "both signals"
        took = f"; {self.seconds:.1f} s" if self.seconds else ""
        lines = [
            f"{self.output}: {self.segments:,} segments of {self.subjects:,} subject(s) in {len(self.shards)} shard(s),"
            f" from {self.recordings - len(self.errors):,} of {self.recordings:,} recording(s){took}",
            f"quality of {judged} at least {RECOMMENDED}: {self.usable:,}",
            f"rejected windows (rejected.csv): {rejected}",
        ]
        if self.resumed:
            lines.append(f"resumed: {self.resumed:,} recordings were finished already")
        if self.ignored:
            lines.append("no recordings: " + ", ".join(f"{n:,} {suffix}" for suffix, n in self.ignored.items()))
        noted = ((name, note) for name, notes in self.notes.items() for note in notes)
        lines += [f"note: {line}" for line in grouped(noted)]
        lines += [f"failed: {line}" for line in grouped(self.errors.items())]
        if not self.segments:
            lines.append("no segment was made: records.csv and rejected.csv say why")
        return printable("\n".join(lines))
