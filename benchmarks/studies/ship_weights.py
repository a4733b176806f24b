"""Put a pretrained run into the package: float16 weights, configuration, recipe, model card, checksums.

    python -m benchmarks.studies.ship_weights runs/xmae-sim-base xmae-sim-base --summary "..." --results results.md \
        --measured real_tasks.json

The card is that of `save_pretrained`, with the configuration of the run and the results (Markdown) put in; its metadata
have the numbers that `python -m benchmarks.studies.real_tasks DATA --output real_tasks.json` has measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import xmae_fast
from xmae_fast._shipped import ABOUT
from xmae_fast.model.card_metadata import Result, result, results_of
from xmae_fast.model.storage.folders import CARD, CONFIG, PREPROCESSING, WEIGHTS
from xmae_fast.model.xmae import xMAE
from xmae_fast.simulation.population import simulate_population

RECIPE = "recipe.yaml"
LICENCE = "apache-2.0"  # that of the package, which the weights are part of
NUMBERS = 16  # of the pooled embedding of the first simulated segment of seed 1, by which a test knows the weights


def to_float16(model: xMAE) -> None:
    """Round weights of two and more dimensions to float16; vectors stay as they are, so that loading gives float32."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            rounded = parameter.data.half()
            if not rounded.isfinite().all():
                raise ValueError(f"{name}: expected weights within the range of float16")
            parameter.data = rounded


def card_results(told: Mapping[str, Any], name: str) -> list[Result]:
    """For the metadata of the card of `name`: what `real_tasks` has written, by file."""
    found: list[Result] = []
    for source, part in told.items():
        if "probes" in part:
            found += results_of(part, name)
        elif name in part:
            whose = (
                "simulated patients that it was not trained on" if source == "simulated" else f"patients of {source}"
            )
            mse, beats = part[name]["mse"]["model"][0], part[name]["beats"]["model"]
            metrics = [("mse", "masked MSE, ECG scaled to [-1, 1] per segment", mse)]
            metrics.append(("f1", "R peaks in hidden ECG, within 50 ms", beats["f1"]))
            found.append(result("Reconstruction of ECG, 80 % of it hidden", whose, source, metrics))
    return found


def ship(run: Path, name: str, summary: str, results: str, to: Path, measured: Mapping[str, Any]) -> Path:
    """Write the folder `to`/`name`.

    Args:
        run: the folder of a run of pretraining; its best checkpoint is taken.
        name: of the model.
        summary: a sentence about it.
        results: Markdown for the card, from headings of level 2 on.
        to: the folder of all shipped models.
        measured: what `real_tasks` has written.
    """
    model = xmae_fast.from_pretrained(run)
    to_float16(model)
    numbers = card_results(measured, name)
    folder = model.save_pretrained(to / name, run=run, name=name, overwrite_card=True, license=LICENCE, results=numbers)
    card = (folder / CARD).read_text(encoding="utf-8")
    head, limits, tail = card.partition("## Limits")
    (folder / CARD).write_text(f"{head}{results.strip()}\n\n{limits}{tail}", encoding="utf-8")
    for file, name_here in (("config.yaml", RECIPE), ("metrics.csv", "metrics.csv")):
        (folder / name_here).write_text((run / file).read_text(encoding="utf-8"), encoding="utf-8")
    loaded = xmae_fast.from_pretrained(folder, impl="reference")
    segment = simulate_population(256, seed=1)["ppg"][:1]
    embedding = xmae_fast.Embedder(loaded, check=False).segments(segment)[0, :NUMBERS]
    files = (WEIGHTS, CONFIG, PREPROCESSING)
    about = {
        "summary": summary,
        "parameters": sum(p.numel() for p in model.parameters()),
        "embedding": [round(float(value), 6) for value in embedding],
        "sha256": {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in files},
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--summary", required=True)
    parser.add_argument("--results", type=Path, help="Markdown for the card")
    parser.add_argument("--measured", type=Path, help="JSON of real_tasks, for the card's metadata")
    parser.add_argument("--to", type=Path, default=Path(xmae_fast.__file__).parent / "shipped")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    results = arguments.results.read_text(encoding="utf-8") if arguments.results else ""
    measured = json.loads(arguments.measured.read_text(encoding="utf-8")) if arguments.measured else {}
    folder = ship(arguments.run, arguments.name, arguments.summary, results, arguments.to, measured)
    for file in sorted(folder.iterdir()):
        print(f"{file.stat().st_size:>12,}  {file}")


if __name__ == "__main__":
    main()
