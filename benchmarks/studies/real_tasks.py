"""What pretrained models know of real people: rhythm, pulse rate, few labels, and ECG from PPG.

    python -m benchmarks.studies.real_tasks DATA [--model NAME=MODEL ...] [--simulated 512] [--output results.json]

DATA is a folder with a labelled file (`real_ppg_rhythm.npz`, see `read_labelled`) and a shard of paired signals
(`real_ecg_ppg_100hz.h5`), or one of them. Without --model, the models that come with the package are judged. Nothing of
DATA is trained on but the probes.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from xmae_fast import from_pretrained, pretrained_models
from xmae_fast.evaluation import HeldOut, ReconstructionStudy, evaluate_rhythm, load_held_out
from xmae_fast.evaluation.beat_study import beat_scores, nearest_differences
from xmae_fast.evaluation.detectors import pulse_feet, r_peaks
from xmae_fast.model.xmae import xMAE
from xmae_fast.simulation.population import PopulationCfg, simulate_population
from xmae_fast.training import read_train_cfg

RATIO, MODE = 0.8, "anchor"
ARRIVAL = 0.26  # s from the R peak to the foot of the pulse, the middle of what the recipes simulate
_HELD_OUT_SEED = 909090  # of the simulated patients that no recipe trains on
_PREDICTORS = ("model", "mean_beat_ppg", "ppg_shuffled")


def simulated(count: int, population: PopulationCfg | None = None) -> tuple[HeldOut, list[np.ndarray]]:
    """Simulated patients that no recipe trains on, and the times of their R peaks."""
    made = simulate_population(count, seed=_HELD_OUT_SEED, cfg=population)
    _, subject = np.unique(made["subject"], return_inverse=True)
    names = [str(number) for number in range(subject.max() + 1)]
    times = [row[np.isfinite(row)].astype(float) for row in made["r_times"]]
    return HeldOut(made["ppg"], made["ecg"], subject, names, 100.0, {}, {}), times


def population_of(model: str) -> PopulationCfg:
    """What a model was trained on, by the recipe beside it (that of a shipped model, or of a run); else the default."""
    known = pretrained_models()
    folder = known[model].folder if model in known else Path(model)
    for name in ("recipe.yaml", "config.yaml"):
        if (folder / name).is_file():
            cfg = read_train_cfg(folder / name)
            return cfg.make_simulation().population if cfg.simulated else PopulationCfg()
    return PopulationCfg()


def aligned(held_out: HeldOut) -> HeldOut:
    """The segments with the PPG of each subject shifted by one constant, so that its pulses arrive at a usual time.

    Monitors shift PPG against ECG by an unknown constant. It is taken from the feet and R peaks of all segments of the
    subject: what the constant makes right for the median beat says nothing about the timing of any other.
    """
    ppg = held_out.ppg.copy()
    r, feet = r_peaks(held_out.ecg, held_out.fs), pulse_feet(held_out.ppg, held_out.fs)
    for subject in np.unique(held_out.subject):
        rows = np.flatnonzero(held_out.subject == subject)
        late = np.concatenate([nearest_differences(r[row], feet[row] - ARRIVAL) for row in rows])  # R peaks, usually 0
        shift = round(float(np.median(late)) * held_out.fs)
        at = np.clip(np.arange(ppg.shape[1]) - shift, 0, ppg.shape[1] - 1)
        ppg[rows] = ppg[rows][:, at]
    return replace(held_out, ppg=ppg)


def reconstruction(model: xMAE, held_out: HeldOut, times: list[np.ndarray]) -> dict[str, Any]:
    """Masked errors and beats of the model and of its baselines on the same hidden spans."""
    study = ReconstructionStudy(model, held_out, resamples=200)
    mask = study.mask(MODE, RATIO)
    errors, hidden = study.errors(MODE, RATIO), study.samples(mask)
    beats = {}
    for name in _PREDICTORS:
        shown = np.where(hidden, study.predict(name, mask), held_out.ecg)  # nothing trains what is visible
        beats[name] = asdict(beat_scores(shown, times, hidden, held_out.subject, held_out.fs))
    reduction = errors["reduction"]["mean_beat_ppg"]
    return {"mse": {name: errors["mse"][name] for name in _PREDICTORS}, "below_mean_beat": reduction, "beats": beats}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", action="append", default=[], metavar="NAME=MODEL")
    parser.add_argument("--simulated", type=int, default=512, metavar="N", help="segments; 0 for none")
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    arguments = parser.parse_args()
    named = dict(item.split("=", 1) for item in arguments.model) or {name: name for name in pretrained_models()}
    models = {name: from_pretrained(path) for name, path in named.items()}
    files = [arguments.data] if arguments.data.is_file() else sorted(arguments.data.glob("[!.]*"))  # no indexes
    told: dict[str, Any] = {}
    for file in files:
        if file.suffix == ".npz" and not file.name.endswith(".truth.npz"):
            told[file.name] = evaluate_rhythm(file, models)
            print(told[file.name]["table"], flush=True)
        elif file.suffix == ".h5":
            real = load_held_out(str(file), split="all", max_segments=None)
            for name, model in models.items():
                found = reconstruction(model, aligned(real), r_peaks(real.ecg, real.fs))
                told.setdefault(file.name, {})[name] = found
                show(f"{file.name}, PPG aligned by one constant a subject", name, found)
    if arguments.simulated:
        for name, model in models.items():
            unseen, times = simulated(arguments.simulated, population_of(named[name]))
            found = reconstruction(model, unseen, times)
            told.setdefault("simulated", {})[name] = found
            show("simulated, unseen", name, found)
    if arguments.output:
        arguments.output.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def show(where: str, name: str, found: dict[str, Any]) -> None:
    """Print a few lines about a reconstruction."""
    low, value, high = (found["below_mean_beat"][i] for i in (1, 0, 2))
    print(f"\n{where}, {name}: masked MSE {found['mse']['model'][0]:.4f}, mean beat by the PPG's feet"
          f" {found['mse']['mean_beat_ppg'][0]:.4f}; {value:.0%} [{low:.0%}, {high:.0%}] below it")  # fmt: skip
    for predictor, beats in found["beats"].items():
        print(f"  {predictor}: F1 of beats {beats['f1']:.3f} (recall {beats['recall']:.3f}, precision"
              f" {beats['precision']:.3f}), median error {beats['error_ms']:.1f} ms")  # fmt: skip


if __name__ == "__main__":
    main()
