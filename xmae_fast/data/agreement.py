"""Several processes, one index: ranks that do not see the same segments stop, all with the same line."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch

from xmae_fast.data.segments import Segments

Made = TypeVar("Made")


@dataclass
class Attempt(Generic[Made]):
    """What `attempt` made, or the error."""

    value: Made | None = None
    error: Exception | None = None


@dataclass(frozen=True)
class _Seen:
    """What one rank tells the others. error: "" or what went wrong; settings: by name; of what was made, by the
    argument's name: segments, how many; shards, rows and content of each by its name and number; broken, shards that
    were left out and why; digest, of everything that decides batches."""

    error: str = ""
    segments: dict[str, int] = field(default_factory=dict)
    shards: dict[str, dict[str, tuple]] = field(default_factory=dict)
    broken: dict[str, dict[str, str]] = field(default_factory=dict)
    digest: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def together(make: Callable[[], Segments], from_group: bool, settings: Mapping[str, Any]) -> Segments:
    """What `make` gives. `from_group`: the place of this process was taken from torch.distributed, all of whose ranks
    call this; they then agree on the segments and on `settings`, or all raise the same ValueError."""
    if not from_group or world_size() == 1:
        return make()
    return settled(attempt(make), lambda segments: {"paths": segments}, settings)


def attempt(make: Callable[[], Made]) -> Attempt[Made]:
    """What `make` returns, or its error, to be told to the other ranks first."""
    try:
        return Attempt(make())
    except Exception as error:  # whatever it is, the others would wait for this rank
        return Attempt(error=error)


def settled(
    made: Attempt[Made],
    segments_of: Callable[[Made], Mapping[str, Segments]],
    settings: Mapping[str, Any] | None = None,
) -> Made:
    """What every rank of torch.distributed has made, compared between them; every rank calls this.

    segments_of: the segments of what was made, by the name of the argument that they come from.

    Raises:
        The rank's own error where all ranks have failed alike. ValueError: a rank has failed, or ranks have other
        segments or settings; the same line on every rank.
    """
    if world_size() > 1:
        mine = _Seen(error=_line(made.error)) if made.error else _seen(segments_of(made.value), settings or {})
        seen: list[_Seen] = [mine] * world_size()
        torch.distributed.all_gather_object(seen, mine)
        if message := difference(seen):
            raise ValueError(message) from made.error
    if made.error:
        raise made.error
    return made.value


def world_size() -> int:
    """Processes of torch.distributed's default group; 1 without one."""
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if there else 1


def difference(seen: list[_Seen]) -> str:
    """In a line, how ranks differ; "" where they do not, or have all failed alike."""
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
        found.settings.update(seed=some.seed, normalize_dtype=some.normalize_dtype)
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
    """Of all that decides which segment has which number, and what becomes of it."""
    settings = segments.seed, segments.augmenting, segments.normalize_dtype, segments.split
    digest = hashlib.blake2b(repr([settings, shards, segments.subjects]).encode("utf-8", "backslashreplace"))
    digest.update(segments.rows)
    digest.update(segments.subject_of(slice(None)))
    return digest.hexdigest()


def _shards_that_differ(name: str, seen: list[_Seen]) -> str:
    """The first shard that not all ranks have, or have alike, and why, where a rank knows it."""
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
    """ "96 on ranks 0, 2, 120 on rank 1"."""
    where: dict[str, list[int]] = {}
    for rank, text in enumerate(texts):
        where.setdefault(text, []).append(rank)
    return ", ".join(f"{text} on {_ranks(ranks)}" for text, ranks in where.items())


def _line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__
