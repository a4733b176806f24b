"""The report of an evaluation, made from results.json alone: every number in it is one of that file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from xmae_fast.evaluation.pages import RESULTS, interval_text, table_of_left_out, write_pages
from xmae_fast.evaluation.probes.targets import FEATURES, TARGETS
from xmae_fast.reports import Cell, Heading, Marked, Page, Picture, Row, Table, plain
from xmae_fast.reports.blocks import Block

_FEW_SUBJECTS, _TOO_FEW_SUBJECTS = 20, 5
_HOW = (
    "All predictors see the same masks. Masked MSE is the mean over segments of the mean squared error over"
    " hidden samples, ECG scaled to [-1, 1] per segment. Intervals are 95 % percentile bootstraps over subjects;"
    " reductions and gains are paired. A mean beat is placed at expected R peaks and is as blurred, by distance to"
    " the visible ECG, as suits other subjects best; every quantity it needs comes from other subjects or from the"
    " visible part.",
    "The shifted PPG is circular: what leaves at the end comes back at the start, so that all beats stay at the"
    " price of one seam. The shuffled PPG is a random segment of another subject.",
    "Probes: StandardScaler and ridge or logistic regression in subject-wise cross-validation; every segment is"
    " predicted by a probe that saw nothing of its subject, penalties are chosen by folds among the training"
    " subjects, too. Within subjects: features and labels less the subject's mean. Pooled tokens are what"
    " pretraining trains; `ppg_embedding` passes through a projection that it does not train. Labels from signals"
    " are R peaks (5-20 Hz energy) and PPG feet (intersecting tangents): the arrival time is then measured with"
    " the same PPG that is embedded.",
)


def write_report(folder: Path) -> None:
    """Write report.md and report.html of the results.json in `folder`; pictures that are missing there are left out.

    Raises:
        FileNotFoundError: there is no results.json.
        ImportError: markdown-it-py is missing.
    """
    folder = Path(folder)
    results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    page = page_of(results)
    there = [block for block in page.blocks if not isinstance(block, Picture) or (folder / block.name).is_file()]
    write_pages(folder, page._replace(blocks=there))


def row_at(results: dict) -> dict:
    """The row of `by_ratio` for the mode and ratio that the report is about."""
    about = results["about"]
    return next(r for r in results["by_ratio"] if (r["mode"], r["ratio"]) == (about["mode"], about["ratio"]))


def page_of(results: dict) -> Page:
    """The report of what results.json holds; its pictures are files beside it."""
    about, data = results["about"], results["about"]["data"]
    shards = ", ".join(data["shards"][:5]) + (f" and {len(data['shards']) - 5} more" if len(data["shards"]) > 5 else "")
    held = "Subjects: all of these shards; unseen if pretraining had others."
    if data["split"] != "all":
        held = f'Subjects: split "{data["split"]}" of seed {data["seed"]}; unseen if pretraining split these shards so.'
    few = ""
    if data["subjects"] < _FEW_SUBJECTS:
        few = f" **Intervals over {data['subjects']} subjects are rough.**"
    if data["subjects"] < _TOO_FEW_SUBJECTS:
        few = f" **With {data['subjects']} subjects this is a smoke test, no evidence.**"
    truth = f"Labels: {plain(', '.join(data['truth']))}." if data["truth"] else "Labels: derived from the signals."
    run = about.get("run", {})
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    probes, not_probed = _probes(results)
    return Page(
        title=f"What {about['checkpoint']} learned",
        about=Marked(
            f"{data['segments']:,} segments ({data['seq_len'] / data['sampling_freq']:g} s at"
            f" {data['sampling_freq']:g} Hz) of {data['subjects']:,} subjects, from {plain(shards)}. {held}"
            f" {truth}{few}"
        ),
        facts={
            "command": run.get("command", ""),
            "model": f"{about['checkpoint']}, {about['parameters']:,} parameters",
            "data": f"{shards}: {data['segments']:,} segments of {data['subjects']:,} subjects",
            "date": run.get("date", ""), "machine": run.get("machine", ""), "version": versions,
        },
        summary=[summary(results)],
        blocks=[
            Heading(2, "Masked reconstruction"),
            Picture("reconstructions.png", "Masked reconstructions: PPG above, ECG below, hidden spans shaded"),
            *_reconstruction(results),
            Heading(2, "Does it use the timing of the PPG?"),
            Picture("error_by_shift.png", "Masked MSE against the shift of the PPG"),
            _shift(results),
            Picture("lag_profile.png", "Attention of hidden ECG by lag"),
            *_lag(results),
            Heading(2, "Linear probes on subjects that the probe has not seen"),
            Picture("probes.png", "Predicted against true, pretrained encoder and random weights"),
            probes,
        ],
        left_out=[*_left_out(data), *not_probed],
        how=[
            *map(Marked, _HOW),
            f"Mask of modes, shifts, pictures: {about['mode']}, ratio {about['ratio']:g}. {about['resamples']:,}"
            f" resamples, seed {about['seed']}.",
        ],
    )  # fmt: skip


def _left_out(data: dict) -> list[Block]:
    if "left_out" not in data:  # results of an earlier version
        return [
            f"Of {data['segments_available']:,} usable segments; the results do not tell how many others there are."
        ]
    return [*table_of_left_out(data["left_out"], data["segments"] + sum(data["left_out"].values()))]


def late_shift(results: dict) -> dict:
    """The row of the shift curve that the report quotes: that of 0.2 s, or of the next smaller shift."""
    return max(results["shift"], key=lambda row: (row["shift_s"] <= 0.2, row["shift_s"]))


def summary(results: dict) -> Marked:
    """The findings as a list in Markdown."""
    row, labels = row_at(results), {name: p["label"] for name, p in results["predictors"].items()}
    best, mse = row["best_baseline"], row["mse"]
    lines = [
        f"- Reconstruction ({row['mode']}, {row['ratio']:.0%} hidden): masked MSE {interval_text(mse['model'])}; the"
        f" best baseline, {plain(labels[best])}, has {interval_text(mse[best])}. The model's error is"
        f" {below(row['reduction'][best])} that.",
        f"- With the PPG of another subject: {interval_text(mse['ppg_shuffled'])}; with the true one the error is"
        f" {below(row['reduction']['ppg_shuffled'])} that.",
    ]
    least = min(results["shift"], key=lambda r: r["mse"][0])
    late = late_shift(results)
    lines.append(
        f"- PPG late by {late['shift_s']:g} s: error {above(late['increase'])} that of the PPG as it was. It is least"
        f" at a shift of {least['shift_s']:g} s."
    )
    for probe in results["probes"]:
        if probe["features"] == "pretrained" and "metrics" in probe:
            name = "R2" if probe["task"] == "regression" else "AUROC"
            lines.append(
                f"- Probe, {TARGETS[probe['target']]}: {name} {interval_text(probe['metrics'][name], 3)}; less that of"
                f" random weights {interval_text(probe['gain_over_random'], 3)}."
            )
    return Marked("\n".join(lines))


def _reconstruction(results: dict) -> list[Block]:
    row, predictors = row_at(results), results["predictors"]
    table = []
    for name, predictor in sorted(predictors.items(), key=lambda item: row["mse"][item[0]][0]):
        role = "" if name == "model" else "baseline" if predictor["fair"] else "no baseline: told more"
        role = Cell("best baseline", tone="strong") if name == row["best_baseline"] else role
        below = _share(row["reduction"][name]) if name in row["reduction"] else ""
        cells = [predictor["label"], interval_text(row["mse"][name]), below, predictor["information"], role]
        table.append(Row(cells, "strong" if name == "model" else ""))
    return [
        f"Mask {row['mode']}, ratio {row['ratio']:g}. Baselines are given no more than the model is.",
        Table(["predictor", "masked MSE", "model's error is below it by", "what it uses", "role"], table),
        Picture("error_by_ratio.png", "Masked MSE by mask ratio"),
        f"By mask ratio ({row['mode']}; positions are those of the n-th visible patch, as published, so that a model"
        " trained at one ratio is not prepared for others):",
        _by(results["by_ratio"], predictors, lambda r: f"{r['ratio']:g}"),
        f"By mask mode (ratio {row['ratio']:g}):",
        _by(results["by_mode"], predictors, lambda r: r["mode"]),
    ]


def _by(rows: list[dict], predictors: dict, title) -> Table:
    """A table of the masked MSE of every predictor in every row, with the best baseline of each row in bold."""
    lines = []
    for name, predictor in predictors.items():
        cells = []
        for row in rows:
            tone = "strong" if name == row["best_baseline"] else ""
            cells.append(Cell(interval_text(row["mse"][name]), tone=tone))
        lines.append([predictor["label"], *cells])
    below = [_share(row["reduction"][row["best_baseline"]]) for row in rows]
    foot = ["model below the best baseline (bold) by", *below]
    return Table(["predictor", *map(title, rows)], lines, foot=[foot])


def _shift(results: dict) -> Table:
    rows = [
        [f"{row['shift_s']:+g}" if row["shift_s"] else "0", interval_text(row["mse"]), _share(row["increase"])]
        for row in results["shift"]
    ]
    return Table(["PPG later by [s]", "masked MSE", "above no shift by"], rows)


def _lag(results: dict) -> list[str]:
    lag = results["lag"]
    if not lag["strongest"]:
        return ["The bridge has no blocks, and so no attention."]
    heads = "; ".join(
        f"block {head['block']} head {head['head']}: {head['lag_s']:+.2f} s ({head['preference']:.1f} times)"
        for head in lag["strongest"]
    )
    return [
        f"Attention of hidden ECG patches, {lag['segments']:,} segments, lags up to {lag['shown_s']:g} s; one token is"
        f" {lag['patch_s']:g} s, finer lags cannot be told. Each head's strongest lag, and how many times even"
        f" attention it gets: {heads}. Tokens carry their surroundings (the stem, and self-attention before the"
        " bridge), so that attention by lag says where the bridge looks, not where the information came from."
    ]


def _probes(results: dict) -> tuple[Table, list[str]]:
    """The table of all probes, and a sentence for each target that was not probed."""
    rows, reasons = [], {}
    for probe in results["probes"]:
        if "skipped" in probe:
            reasons[probe["target"]] = probe["skipped"]
            continue
        (measure, value), *others = probe["metrics"].items()
        more = ", ".join(f"{name} {interval_text(other, 3)}" for name, other in others)
        if probe["prevalence"] is not None:
            more += f" (chance: AUPRC {probe['prevalence']:.3f})"
        gain = "" if probe["gain_over_random"] is None else interval_text(probe["gain_over_random"], 3)
        about = TARGETS[probe["target"]], FEATURES[probe["features"]]
        rows.append([*about, measure, interval_text(value, 3), gain, more, probe["labels"]])
    header = ["target", "features", "measure", "result", "above random weights", "and", "labels from"]
    return Table(header, rows), [f"Not probed: {TARGETS[t]} ({reason})." for t, reason in reasons.items()]


def _share(value: Sequence[float]) -> str:
    return "{:.1%} [{:.1%}, {:.1%}]".format(*(round(share, 3) + 0.0 for share in value))  # + 0.0: no "-0.0%"


def below(reduction: Sequence[float]) -> str:
    """A reduction and its interval in words: "31.0% [25.0%, 37.0%] below", or "above" if it is negative."""
    value, low, high = reduction
    if value >= 0:
        return _share(reduction) + " below"
    return _share([-value, -high, -low]) + " above"


def above(increase: Sequence[float]) -> str:
    """An increase and its interval in words, as `below` has them."""
    value, low, high = increase
    return below([-value, -high, -low])
