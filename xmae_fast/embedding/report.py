"""What `embed_files` reports."""

from __future__ import annotations

from dataclasses import dataclass, field

from xmae_fast.embedding.checks import grouped


@dataclass(frozen=True)
class ExtractionReport:
    """What a call of `embed_files` did.

    Attributes:
        folder: of the embeddings.
        rows, parts: segments and parts of the whole work.
        written: segments that this process has embedded.
        resumed: segments in the share of this process that were embedded before.
        unusable: how many of those written could not be embedded and are NaN.
        rejected: segments that were left out, by reason.
        complete: whether all parts are there, those of other processes too.
        seconds: time of reading, encoding and writing.
        recordings: recordings that were found, those with errors too; 0 with shards.
        errors: what is wrong with a recording that could not be embedded, by its name. The same call tries it again.
        findings: what looks wrong with a recording, or with a shard, by its name, a sentence each.
    """

    folder: str
    rows: int
    parts: int
    written: int
    resumed: int
    unusable: int
    rejected: dict[str, int]
    complete: bool
    seconds: float
    recordings: int = 0
    errors: dict[str, str] = field(default_factory=dict)
    findings: dict[str, list[str]] = field(default_factory=dict)

    @property
    def segments_per_s(self) -> float:
        """Speed of this process."""
        return self.written / self.seconds if self.seconds else 0.0

    def describe(self) -> str:
        """The report as a few lines of text."""
        share = f"{self.written:,} embedded in {self.seconds:.1f} s, {self.segments_per_s:,.0f} segments/s"
        lines = [f"{self.folder}: {self.rows:,} segments in {self.parts:,} part(s); {share}"]
        if self.resumed:
            lines.append(f"{self.resumed:,} were there already")
        if self.unusable:
            lines.append(f"{self.unusable:,} could not be embedded: NaN")
        if self.rejected:
            lines.append("left out: " + ", ".join(f"{count:,} {reason}" for reason, count in self.rejected.items()))
        if not self.complete:
            lines.append("parts of other processes are still missing")
        said = [(name, text) for name, texts in self.findings.items() for text in texts]
        lines += [f"note: {sentence}" for sentence in grouped(said)]
        lines += [f"failed: {sentence}" for sentence in grouped(self.errors.items())]
        if self.errors:
            failed = f"{len(self.errors):,} of {self.recordings:,} recording(s)"
            lines.append(f"{failed} could not be embedded; the same command tries them again")
        return "\n".join(lines)
