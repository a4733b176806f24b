"""How real simulated patients look: a classifier that tells them from people, and both side by side.

    python -m benchmarks.studies.realism real_ppg_rhythm.npz FOLDER [--config xmae_sim_base]

Of each rhythm as many segments are simulated as the labelled file has. Trees on the 35 hand-made features tell the two
apart, in folds without common subjects: an AUROC of 0.5 is no difference. FOLDER gets, for each rhythm, a picture of 24
simulated segments beside 24 of people, and `realism.json`. The pictures show data of people: they are to look at, not
to pass on.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from xmae_fast._files import atomic_path
from xmae_fast._optional import new_figure
from xmae_fast.evaluation.features_of_paper import PAPER_FEATURES, paper_features
from xmae_fast.evaluation.labelled import LabelledPPG, read_labelled
from xmae_fast.simulation.population import RHYTHMS, PopulationCfg, simulate_population
from xmae_fast.training import read_train_cfg

_SHOWN, _TREES, _SEED, _FOLDS = 24, 400, 424242, 4


def simulated(rhythm: str, count: int, population: PopulationCfg) -> tuple[np.ndarray, np.ndarray]:
    """PPG [count, L] of one rhythm, and the subjects [count]."""
    shares = tuple(float(name == rhythm) for name in RHYTHMS)
    made = simulate_population(count, seed=_SEED, cfg=replace(population, shares=shares))
    return made["ppg"], made["subject"]


def told_apart(real: np.ndarray, made: np.ndarray, groups: np.ndarray) -> tuple[float, dict[str, float]]:
    """How well trees tell two sets of features apart; the AUROC, and the five features that each do best alone.

    Args:
        real, made: [n, 35] and [m, 35].
        groups: [n + m], the subjects, whose folds they are.
    """
    x, y = np.concatenate([real, made]), np.repeat([1, 0], [len(real), len(made)])
    scores = np.empty(len(y))
    for train, test in StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=_SEED).split(x, y, groups):
        trees = ExtraTreesClassifier(_TREES, min_samples_leaf=3, class_weight="balanced", random_state=_SEED)
        scores[test] = trees.fit(x[train], y[train]).predict_proba(x[test])[:, 1]
    alone = {name: float(roc_auc_score(y, x[:, i])) for i, name in enumerate(PAPER_FEATURES)}
    best = sorted(alone, key=lambda name: -abs(alone[name] - 0.5))[:5]
    return float(roc_auc_score(y, scores)), {name: alone[name] for name in best}


def draw(rhythm: str, made: np.ndarray, real: np.ndarray, fs: float, path: Path) -> None:
    """24 simulated segments on the left, as many of people on the right."""
    figure = new_figure(15, 14, "Pictures need", "eval")
    axes = figure.subplots(1, 2)
    for ax, ppg, title in zip(axes, (made, real), ("simulated", "people"), strict=True):
        for row, segment in enumerate(ppg[:_SHOWN]):
            ax.plot(np.arange(len(segment)) / fs, segment * 0.45 - row, lw=0.8, color="#0072B2")
        ax.set(title=f"{rhythm}, {title}", xlabel="s", yticks=[], xlim=(0, ppg.shape[1] / fs))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=80)


def study(data: LabelledPPG, population: PopulationCfg, folder: Path) -> dict[str, dict]:
    """The AUROC by rhythm and of all rhythms together; the pictures go to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, found = np.random.default_rng(_SEED), {}
    parts: dict[str, list[np.ndarray]] = {"real": [], "made": [], "real_by": [], "made_by": []}
    for rhythm in (name for name in RHYTHMS if (data.label == name).sum() >= _SHOWN):
        rows = np.flatnonzero(data.label == rhythm)
        ppg, subject = simulated(rhythm, len(rows), population)
        draw(rhythm, ppg[rng.permutation(len(ppg))], data.ppg[rng.permutation(rows)], data.fs, folder / f"{rhythm}.png")
        own = {
            "real": paper_features(data.ppg[rows], data.fs), "made": paper_features(ppg, data.fs),
            "real_by": data.subject[rows], "made_by": np.array([f"{rhythm} {number}" for number in subject]),
        }  # fmt: skip
        for name, values in own.items():
            parts[name].append(values)
        found[rhythm] = judged(**own)
    return {"all": judged(**{name: np.concatenate(values) for name, values in parts.items()})} | found


def judged(real: np.ndarray, made: np.ndarray, real_by: np.ndarray, made_by: np.ndarray) -> dict:
    """How many segments there are of how many people, and how well they are told from simulated ones.

    Args:
        real, made: the features, [n, 35] and [m, 35].
        real_by, made_by: the subjects, [n] and [m].
    """
    auroc, best = told_apart(real, made, np.concatenate([real_by, made_by]))
    return {"segments": len(real), "subjects": len(set(real_by)), "auroc": auroc, "best_alone": best}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labelled", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", help="the recipe whose population it is; without it the default one")
    arguments = parser.parse_args()
    given = arguments.config
    population = PopulationCfg() if given is None else read_train_cfg(given).make_simulation().population
    found = study(read_labelled(arguments.labelled), population, arguments.folder)
    (arguments.folder / "realism.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    for name, result in found.items():
        best = ", ".join(f"{feature} {value:.2f}" for feature, value in result["best_alone"].items())
        count = f"{result['segments']:5} segments of {result['subjects']:2} people"
        print(f"{name:6} {count}: AUROC {result['auroc']:.2f}; {best}")


if __name__ == "__main__":
    main()
