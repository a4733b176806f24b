"""Where simulated patients come from: the keys `data: simulation:` and `simulation` of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from xmae_fast._config_checks import expect, is_whole, refuse_unknown
from xmae_fast.simulation.population import PopulationCfg

PREFIX = "simulation:"
"""What `data` begins with where segments are simulated; the seed of the population may follow."""

VALIDATION = 1 << 63  # is added to the seed for the segments to validate on
_PARTS = ("rhythm", "circulation", "ppg", "ecg")


@dataclass(frozen=True)
class Stage:
    """A part of the stream.

    Args:
        segments: how many.
        population: what they are drawn from.
    """

    segments: int
    population: PopulationCfg

    def __post_init__(self) -> None:
        ok = is_whole(self.segments) and self.segments > 0
        expect(ok, "simulation.stages.segments", "a whole number, at least 1", self.segments)


@dataclass(frozen=True)
class SimulationSource:
    """Where simulated segments come from.

    Args:
        seed: of the population, below 2^63. The segments to validate on have a seed of their own.
        segments: how many segments are called an epoch; each epoch has new ones.
        val_segments: how many segments to validate on, the same ones every time.
        stages: what the first segments are drawn from: an easier population first, for example. After the segments of
            all stages, `population`.
        workers: processes that simulate ahead; 0 simulates between the steps.
        population: what is simulated.

    Raises:
        ValueError: a value is out of range; the message names it.
    """

    seed: int = 77
    segments: int = 65536
    val_segments: int = 2048
    workers: int = 1
    population: PopulationCfg = field(default_factory=PopulationCfg)
    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        for name, low in (("seed", 0), ("segments", 1), ("val_segments", 1), ("workers", 0)):
            value = getattr(self, name)
            expect(is_whole(value) and value >= low, f"simulation.{name}", f"a whole number, at least {low}", value)
        expect(self.seed < VALIDATION, "simulation.seed", "below 2^63", self.seed)
        lengths = {one.population.seq_len for one in self.stages} | {self.population.seq_len}
        expect(len(lengths) == 1, "simulation.stages", "segments as long as those of the population", sorted(lengths))

    def population_of(self, number: int) -> PopulationCfg:
        """What segment `number` is drawn from, a whole block of 256 by its first segment."""
        for stage in self.stages:
            if number < stage.segments:
                return stage.population
            number -= stage.segments
        return self.population


def is_simulated(data: object) -> bool:
    """Whether `data`, a text or a list of texts, names simulated patients."""
    texts = [data] if isinstance(data, str) else list(data) if isinstance(data, Iterable) else []
    return any(isinstance(text, str) and text.startswith(PREFIX) for text in texts)


def simulation_source(
    data: list[str], options: Mapping[str, Any] | None, *, seed: int, sampling_freq: float, seg_len: float
) -> SimulationSource:
    """Read the key `data` of a run and its key `simulation`.

    Args:
        data: ["simulation:"] or ["simulation:SEED"].
        options: fields of `SimulationSource` but for the seed; `population` is a mapping of fields of `PopulationCfg`,
            whose `rhythm`, `circulation`, `ppg` and `ecg` are mappings too. `stages` is a list of mappings with
            `segments` and a `population` that says what differs from the population after the stages. None for the
            defaults.
        seed: of the population, where `data` has none.
        sampling_freq: Hz.
        seg_len: s.

    Raises:
        ValueError: a value is wrong; the message names the key.
    """
    text = data[0].removeprefix(PREFIX).strip()
    expect(len(data) == 1, "data", f"'{PREFIX}SEED' alone, or shards alone", data)
    expect(not text or text.isdecimal(), "data", f"'{PREFIX}' or '{PREFIX}SEED' with a whole number", data[0])
    options = dict(options or {})
    refuse_unknown(options, [f.name for f in fields(SimulationSource) if f.name != "seed"], "simulation")
    expect(sampling_freq == round(sampling_freq), "sampling_freq", "a whole number for a simulation", sampling_freq)
    population = PopulationCfg(sampling_freq=round(sampling_freq), seg_len=seg_len)
    population = _changed(population, options.pop("population", None) or {}, "simulation.population")
    stages = options.pop("stages", None) or []
    expect(isinstance(stages, (list, tuple)), "simulation.stages", "a list of mappings", stages)
    made = tuple(_stage(one, population, f"simulation.stages[{number}]") for number, one in enumerate(stages))
    return SimulationSource(seed=int(text) if text else seed, population=population, stages=made, **options)


def _stage(values: Any, population: PopulationCfg, where: str) -> Stage:
    expect(isinstance(values, Mapping) and "segments" in values, where, "a mapping with segments", values)
    refuse_unknown(values, ["segments", "population"], where)
    return Stage(values["segments"], _changed(population, values.get("population") or {}, f"{where}.population"))


def _changed(cfg: Any, values: Mapping[str, Any], where: str) -> Any:
    """The settings with other values, where lists stand for tuples and mappings for the settings of a part."""
    expect(isinstance(values, Mapping), where, "a mapping", values)
    own = [f.name for f in fields(cfg) if f.name not in ("sampling_freq", "seg_len")]  # those are keys of the run
    refuse_unknown(values, own, where)
    changes = {}
    for name, value in values.items():
        if name in _PARTS and isinstance(cfg, PopulationCfg):
            changes[name] = _changed(getattr(cfg, name), value, f"{where}.{name}")
        else:
            changes[name] = tuple(value) if isinstance(value, list) else value
    return replace(cfg, **changes)
