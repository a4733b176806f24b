"""Checks that all processes of torch.distributed see the same segments; if not, all raise the same error."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

import torch

from xmae_fast.data.segments import Segments

Made = TypeVar("Made")


@dataclass
class Attempt(Generic[Made]):
    """What `attempt` has made, or the error that it caught."""

    value: Made | None = None
    error: Exception | None = None

    def result(self) -> Made:
        """What was made; if it could not be made, the error is raised."""
        if self.error:
            raise self.error
        return cast(Made, self.value)  # None only if that is what was made, as there is no error


@dataclass(frozen=True)
class _Seen:
    """What one rank tells the others.

    What was made may hold several sets of segments, each under the name of the argument that it came from.

    Args:
        error: what went wrong, or "".
        segments: by argument, the number of segments.
        shards: by argument and by the shard's name and number, its number of rows and what tells its content.
        broken: by argument, the shards that were left out, and why.
        digest: by argument, a hash of everything that decides the batches.
        settings: the settings, by name.
    """

    error: str = ""
    segments: dict[str, int] = field(default_factory=dict)
    shards: dict[str, dict[str, tuple]] = field(default_factory=dict)
    broken: dict[str, dict[str, str]] = field(default_factory=dict)
    digest: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def together(make: Callable[[], Segments], from_group: bool, settings: Mapping[str, Any]) -> Segments:
    """Make segments, and if all ranks of torch.distributed do so together, compare what they have made.

    Args:
        make: makes the segments of this rank.
        from_group: whether this process took its rank from torch.distributed. If so, all ranks must call this.
        settings: what must be the same on all ranks besides the segments, by name.

    Returns:
        What `make` has made.

    Raises:
        ValueError: ranks differ, or one of them has failed; all ranks raise the same message.
    """
    if not from_group or world_size() == 1:
        return make()
    return settled(attempt(make), lambda segments: {"paths": segments}, settings)


def attempt(make: Callable[[], Made]) -> Attempt[Made]:
    """Call `make` and catch its error, which the other ranks must be told before it is raised."""
    try:
        return Attempt(make())
    except Exception as error:  # whatever it is, the others would wait for this rank
        return Attempt(error=error)


def settled(
    made: Attempt[Made],
    segments_of: Callable[[Made], Mapping[str, Segments]],
    settings: Mapping[str, Any] | None = None,
) -> Made:
    """Compare what the ranks of torch.distributed have made; every rank must call this.

    Args:
        made: what this rank has made, or its error.
        segments_of: gives the segments in what was made, by the name of the argument that they come from.
        settings: what must be the same on all ranks besides the segments, by name.

    Returns:
        What this rank has made.

    Raises:
        ValueError: a rank has failed, or ranks have different segments or settings; the message is the same on every
            rank. If all ranks have failed with the same error, each raises its own.
    """
    if world_size() > 1:
        mine = _Seen(error=_line(made.error)) if made.error else _seen(segments_of(made.result()), settings or {})
        seen: list[_Seen] = [mine] * world_size()
        torch.distributed.all_gather_object(seen, mine)
        if message := difference(seen):
            raise ValueError(message) from made.error
    return made.result()


def world_size() -> int:
    """The number of processes in torch.distributed's default group; 1 if there is no group."""
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if there else 1


def difference(seen: list[_Seen]) -> str:
    """One line that says how the ranks differ; "" if they do not, or if all have failed with the same error."""
    failed = [rank for rank, one in enumerate(seen) if one.error]
    if failed:
        if len(failed) == len(seen) and len({one.error for one in seen}) == 1:
            return ""
        return f"paths: {_ranks(failed)} of {len(seen)} cannot open the segments: {seen[failed[0]].error}"
    for name, value in seen[0].settings.items():
        if any(one.settings.get(name) != value for one in seen):
            return (
                f"{name}: expected one value on all ranks, got {_each([repr(one.settings.get(name)) for one in seen])}"
            )
    for name in seen[0].digest:
        if len({one.digest[name] for one in seen}) > 1:
            what = _shards_that_differ(name, seen) or "the selection or the subjects differ"
            counts = _each([f"{one.segments[name]:,}" for one in seen])
            return f"{name}: expected the same segments on all ranks, got {counts}: {what}"
    return ""


def _seen(segments: Mapping[str, Segments], settings: Mapping[str, Any]) -> _Seen:
    found = _Seen(settings=dict(settings))
    for name, some in segments.items():
        found.settings.update(seed=some.seed, normalize_dtype=some.normalize_dtype, signals=some.signals)
        found.segments[name] = len(some)
        found.shards[name] = {}
        for number, shard in enumerate(some.index.shards):
            known = shard.sidecar.valid_for
            content = known["size"], known["probe"], [mark and mark[2] for mark in known.get("others", {}).values()]
            found.shards[name][f"{os.path.basename(shard.path)}/{number}"] = shard.stop - shard.start, content
        found.broken[name] = {os.path.basename(path): _line(why) for path, why in some.index.broken.items()}
        found.digest[name] = _digest(some, found.shards[name])
    return found


def _digest(segments: Segments, shards: dict[str, tuple]) -> str:
    """A hash of everything that decides which segment has which number, and how it is changed before use."""
    settings = segments.seed, segments.augmenting, segments.normalize_dtype, segments.split
    digest = hashlib.blake2b(repr([settings, shards, segments.subjects]).encode("utf-8", "backslashreplace"))
    digest.update(segments.rows.data)
    digest.update(segments.subject_of(slice(None)).data)
    return digest.hexdigest()


def _shards_that_differ(name: str, seen: list[_Seen]) -> str:
    """Names the first shard that some ranks lack or have with other content, and why if a rank knows; "" for none."""
    for one in seen:
        for shard, why in one.broken[name].items():
            lacking = [r for r, other in enumerate(seen) if shard in other.broken[name]]
            if len(lacking) < len(seen):
                return f"{shard} is left out on {_ranks(lacking)} ({why})"
    for rank, one in enumerate(seen):
        for shard, about in one.shards[name].items():
            lacking = [r for r, other in enumerate(seen) if shard not in other.shards[name]]
            if lacking:
                return f"{shard.rpartition('/')[0]} is missing on {_ranks(lacking)}"
            others = [r for r, other in enumerate(seen) if other.shards[name][shard] != about]
            if others:
                return f"{shard.rpartition('/')[0]} is not the same on {_ranks([rank])} and {_ranks(others)}"
    return ""


def _ranks(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _each(texts: list[str]) -> str:
    """Joins what the ranks have, as in "96 on ranks 0, 2, 120 on rank 1"."""
    where: dict[str, list[int]] = {}
    for rank, text in enumerate(texts):
        where.setdefault(text, []).append(rank)
    return ", ".join(f"{text} on {_ranks(ranks)}" for text, ranks in where.items())


def _line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__
