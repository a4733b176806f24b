"""What variables beside a signal say of it: its rate, its times, whose it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from xmae_fast.recordings.formats.array_times import Beside, rate_of_times
from xmae_fast.recordings.formats.nested import Node, Numbers, Struct, key_of, number_of, text_of, values_of
from xmae_fast.recordings.formats.nested_signals import TIMES, Scopes, Signal, kinds_of

RATES = (
    "fs", "freq", "frequency", "samplingrate", "samplerate", "samplingfreq", "samplingfrequency", "samplefreq",
    "samplefrequency", "samplingfreqhz", "samplingratehz", "sampleratehz", "fshz", "sfreq", "srate", "sr", "fsamp",
    "fsample", "rate", "hz",
)  # fmt: skip
_STEPS = ("ts", "dt", "sampleinterval", "samplinginterval", "sampletime", "sampleperiod", "samplingperiod", "isi")
SUBJECTS = (
    "subject", "subjectid", "subjid", "subj", "patient", "patientid", "participant", "participantid", "caseid",
)  # fmt: skip
UNITS = {"timems": "time_ms", "tms": "time_ms", "timeus": "time_us", "timens": "time_ns", "timemin": "time_min"}
UNITS |= {f"timestamp{s}{unit}": f"time_{unit}" for s in ("", "s") for unit in ("ms", "us", "ns")}
_ABOUT = ("info", "meta", "metadata", "header", "hdr", "fix", "param", "params", "parameters", "settings", "config")


def rate_of(signal: Signal, length: int, file: Any) -> tuple[float, list[str]]:
    """The rate in Hz that the file states for a signal, NaN if it states none, and notes on it.

    It is looked for beside the signal and then further out: under the signal's own name ("ppg_fs"), under a usual name
    of rates, as the time between two samples ("dt", in s), and as times of all samples.

    Args:
        signal: the signal.
        length: the samples of its first piece.
        file: the open file.

    Raises:
        ValueError: its pieces have different rates.
    """
    if len({len(scope) for scope in signal.scopes}) > 1 or len(signal.scopes[0]) < 2:
        return _rate(signal, signal.scopes[0], length, file)
    inner = {id(scope[-1]): scope for scope in signal.scopes}
    count = signal.channel[1] if signal.channel else 1
    own = len(inner) == len(signal.scopes) and not signal.windows
    lengths = [node.size // count for node in signal.pieces] if own else [length] * len(inner)
    found = [_rate(signal, scope, n, file) for scope, n in zip(inner.values(), lengths, strict=True)]
    rates = {rate for rate, _ in found if not np.isnan(rate)}
    if len(rates) > 1:
        listed = ", ".join(f"{rate:g}" for rate in sorted(rates)[:5])
        raise ValueError(f"{signal.name}: expected one rate of all {len(signal.pieces)} pieces, found {listed} Hz")
    return (rates.pop() if rates else np.nan), found[0][1]


def _rate(signal: Signal, scopes: Scopes, length: int, file: Any) -> tuple[float, list[str]]:
    key = key_of(signal.key)
    kinds = kinds_of(signal.name)
    own = [form.format(name) for name in dict.fromkeys((key, *kinds)) for form in ("{}fs", "fs{}", "{}rate")]
    own += [f"{name}{rate}" for name in dict.fromkeys((key, *kinds)) for rate in RATES if len(rate) > 2]
    for struct in reversed(scopes):
        fields = _fields(struct)
        for name in (*own, *RATES):
            if name in fields and (rate := _one(fields[name], signal, file)):
                return rate, []
        for name in _STEPS:
            if name in fields and (step := _one(fields[name], signal, file)):
                unit = text_of(fields.get(f"{name}units"), file).lower()
                return 1 / (step * (1e-3 if unit in ("ms", "msec", "milliseconds") else 1)), []
        if len(signal.pieces) > 1 and (beside := _times(struct, signal, length, file, {})):
            return rate_of_times(beside.values, signal.name)
    return np.nan, []


def times_of(signal: Signal, length: int, file: Any, known: dict[tuple[int, str], Beside]) -> Beside | None:
    """The times beside a signal of one piece with `length` samples, innermost first; None if there are none.

    Args:
        signal: the signal.
        length: its samples.
        file: the open file.
        known: the times that were read for other signals, to which these are added.
    """
    for struct in reversed(signal.scopes[0]):
        if found := _times(struct, signal, length, file, known):
            return found
    return None


def _times(
    struct: Struct, signal: Signal, length: int, file: Any, known: dict[tuple[int, str], Beside]
) -> Beside | None:
    """The times of the samples of a signal in the fields of a struct."""
    key, fields = key_of(signal.key), _fields(struct)
    for name in (f"{key}time", f"time{key}", f"{key}t", f"t{key}", *TIMES):
        node = fields.get(name)
        if isinstance(node, Numbers) and node.size == length > 1:
            place = id(struct), name
            if place not in known:
                known[place] = Beside(UNITS.get(name, "time"), values_of(node, file))
            return known[place]
    return None


def _one(node: Node, signal: Signal, file: Any) -> float | None:
    """A positive number that holds for the signal: the only one, or that of its channel; None if there is none."""
    values = values_of(node, file)
    if signal.channel is not None and len(values) == signal.channel[1] > 1:
        value: float | None = float(values[signal.channel[0]])
    elif 1 < len(values) <= 64 and (values == values[0]).all():
        value = float(values[0])
    else:
        value = number_of(node, file)
    return value if value is not None and np.isfinite(value) and value > 0 else None


def subjects_of(signal: Signal, file: Any) -> list[str]:
    """The subject of each piece, innermost first; [] if the file names none."""
    known: dict[int, str] = {}
    found = []
    for scope in signal.scopes:
        names = (_subject(struct, file, known) for struct in reversed(scope))
        found.append(next(filter(None, names), ""))
    return found if any(found) else []


def _subject(struct: Struct, file: Any, known: dict[int, str]) -> str:
    if id(struct) not in known:
        fields = _fields(struct)
        texts = (text_of(fields[name], file) for name in SUBJECTS if name in fields)
        known[id(struct)] = next(filter(None, texts), "")
    return known[id(struct)]


def starts_of(signal: Signal, file: Any) -> np.ndarray | None:
    """When each of several pieces begins, [pieces] in s, by the times beside it; None if there are none."""
    starts = []
    for scope in signal.scopes:
        fields = _fields(scope[-1])
        node = next((fields[name] for name in TIMES if name in fields), None)
        if node is None or not len(times := values_of(node, file)):
            return None
        starts.append(times[0])
    return np.array(starts)


def _fields(struct: Struct) -> dict[str, Node]:
    """The fields of a struct and of structs in it that tell about it, by their names without case and "_"."""
    return {key: node for key, node in _all(struct)}


def _all(struct: Struct) -> Iterator[tuple[str, Node]]:
    for name, node in struct.fields.items():
        if key_of(name) in _ABOUT and isinstance(node, Struct):
            yield from ((key_of(inner), value) for inner, value in node.fields.items())
    for name, node in struct.fields.items():
        yield re.sub(r"[\[(].*[\])]$", "", key_of(name)), node
