"""A simulated population of patients: ECG and PPG of six rhythms with known beats and pulses, as an endless stream."""

from xmae_fast.simulation.population.config import RHYTHMS, PopulationCfg
from xmae_fast.simulation.population.ranges import CirculationCfg, EcgCfg, PpgCfg, RhythmCfg
from xmae_fast.simulation.population.shards import write_population
from xmae_fast.simulation.population.stream import PopulationStream, simulate_population

__all__ = [
    "RHYTHMS", "CirculationCfg", "EcgCfg", "PopulationCfg", "PopulationStream", "PpgCfg", "RhythmCfg",
    "simulate_population", "write_population",
]  # fmt: skip
