"""The pictures of an evaluation. The title of each says what it shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xmae_fast._files import atomic_path
from xmae_fast._optional import need, new_figure
from xmae_fast.evaluation.baselines import masked_mse_by_segment
from xmae_fast.evaluation.probes.linear import ProbeResult
from xmae_fast.evaluation.reconstruction_study import MODEL, ReconstructionStudy
from xmae_fast.evaluation.report import above, below, late_shift, row_at

# The colours of Okabe and Ito, which people with every kind of colour vision can tell apart.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY = "#777777"
_STYLE = {
    MODEL: (BLUE, "-", "o"), "mean_beat_ppg": (GREEN, "-", "s"), "mean_beat": (GREEN, "--", "v"),
    "interpolation": (GREY, "--", "d"), "visible_mean": (GREY, ":", "x"), "ppg_shuffled": (RED, "-", "^"),
    "ppg_zeroed": (ORANGE, "--", "<"), "bridge_off": (PURPLE, "--", ">"), "subject_beat_ppg": (SKY, ":", "P"),
    "true_beat": ("#000000", ":", "*"),
}  # fmt: skip
_OTHERS = ("#882255", "#44AA99", "#999933", "#332288")  # further checkpoints
PICTURES = {
    "reconstructions.png": "masked reconstructions",
    "error_by_ratio.png": "error by mask ratio",
    "error_by_shift.png": "error against shift of the PPG",
    "lag_profile.png": "attention by lag",
    "probes.png": "probes",
}


def draw_all(folder: Path, results: dict, study: ReconstructionStudy, probes: dict) -> None:
    """Write the PICTURES.

    Args:
        folder: where they go.
        results: what results.json holds.
        study: the reconstructions.
        probes: results by target and features.
    """
    drawn = {
        "reconstructions.png": draw_reconstructions(study, results),
        "error_by_ratio.png": draw_by_ratio(results),
        "error_by_shift.png": draw_shift(results),
        "lag_profile.png": draw_lag(results),
        "probes.png": draw_probes(probes),
    }
    for name, figure in drawn.items():
        if figure is None:
            (folder / name).unlink(missing_ok=True)
            continue
        with atomic_path(folder / name) as temporary:
            figure.savefig(temporary, format="png", dpi=110)


def draw_reconstructions(study: ReconstructionStudy, results: dict):
    """Draw PPG above, ECG and its reconstruction below, for the segments with errors nearest to three quantiles."""
    about = results["about"]
    mode, ratio = about["mode"], about["ratio"]
    mask, held_out = study.mask(mode, ratio), study.held_out
    masked, predicted = study.samples(mask), study.predict(MODEL, mask)
    error = masked_mse_by_segment(predicted, held_out.ecg, masked)
    quantiles = (0.1, 0.5, 0.9)
    rows = [int(np.abs(error - np.quantile(error, q)).argmin()) for q in quantiles]
    figure = _figure(11, 8.6)
    time = np.arange(held_out.ecg.shape[1]) / held_out.fs
    grid = figure.add_gridspec(9, 1, height_ratios=[1, 1.6, 0.12] * 3)
    for i, (row, quantile) in enumerate(zip(rows, quantiles, strict=True)):
        top, bottom = figure.add_subplot(grid[3 * i]), figure.add_subplot(grid[3 * i + 1])
        top.plot(time, held_out.ppg[row], color=GREEN, lw=1.1)
        which = {0.1: "a tenth is better", 0.5: "the median", 0.9: "a tenth is worse"}[quantile]
        top.set_title(
            f"{held_out.subjects[held_out.subject[row]]}: masked MSE {error[row]:.4f} ({which})", loc="left",
            fontsize=10, parse_math=False,
        )  # fmt: skip
        bottom.plot(time, held_out.ecg[row], color="#444444", lw=1.0, label="ECG")
        shown = np.where(masked[row], predicted[row], np.nan)
        bottom.plot(time, shown, color=BLUE, lw=1.5, label="reconstructed where hidden")
        for begin, end in np.flatnonzero(np.diff(masked[row], prepend=False, append=False)).reshape(-1, 2):
            bottom.axvspan(begin / held_out.fs, end / held_out.fs, color="#f0e6d2", lw=0, zorder=0)
        top.set_ylabel("PPG [-1, 1]", color=GREEN)
        bottom.set_ylabel("ECG [-1, 1]")
        top.tick_params(labelbottom=False)
        for axis in (top, bottom):
            axis.set_xlim(0, time[-1])
            axis.set_ylim(-1.15, 1.15)
        figure.align_ylabels([top, bottom])
        if i == 0:
            place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2}
            top.legend(*bottom.get_legend_handles_labels(), ncols=2, frameon=False, fontsize=9, **place)
    bottom.set_xlabel("time [s]; shaded: hidden from the model")
    mse, baseline = row_at(results)["mse"], row_at(results)["best_baseline"]
    figure.suptitle(
        f"{ratio:.0%} of the ECG hidden ({mode}): masked MSE {mse[MODEL][0]:.4f},"
        f" best baseline {mse[baseline][0]:.4f} ({results['predictors'][baseline]['label']})"
    )
    return figure


def draw_by_ratio(results: dict):
    """Draw the masked MSE of every predictor against the mask ratio."""
    figure = _figure(9.5, 5.2)
    axis = figure.add_subplot()
    rows = results["by_ratio"]
    ratio = [row["ratio"] for row in rows]
    others = iter(_OTHERS * 8)
    for name, predictor in results["predictors"].items():
        value, low, high = np.array([row["mse"][name] for row in rows]).T
        colour, line, marker = _STYLE.get(name) or (next(others), "-", "D")
        style = {"color": colour, "ls": line, "lw": 2.4 if name == MODEL else 1.3}
        style |= {"marker": marker, "ms": 5, "zorder": 5 if name == MODEL else 3}
        axis.plot(ratio, value, label=predictor["label"], **style)
        axis.fill_between(ratio, low, high, color=colour, alpha=0.15, lw=0)
    axis.set_xlabel("share of the ECG that is hidden")
    axis.set_ylabel("masked MSE (ECG in [-1, 1]), log scale")
    axis.set_yscale("log")
    ticker = need("matplotlib.ticker", "Reports need", "eval")
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axis.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.yaxis.set_minor_locator(ticker.NullLocator())
    axis.set_xticks(ratio)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    row = row_at(results)
    best = row["best_baseline"]
    gain = row["reduction"][best]
    axis.set_title(
        f"At {row['ratio']:.0%} hidden ({row['mode']}) the model's error is\n{below(gain)} the best baseline's",
        fontsize=11,
    )
    return figure


def draw_shift(results: dict):
    """Draw the masked MSE against the shift of the PPG."""
    figure = _figure(7.5, 4.4)
    axis = figure.add_subplot()
    shift = [row["shift_s"] for row in results["shift"]]
    value, low, high = np.array([row["mse"] for row in results["shift"]]).T
    axis.fill_between(shift, low, high, color=BLUE, alpha=0.2, lw=0, label="95 % interval over subjects")
    axis.plot(shift, value, "o-", color=BLUE, label="model, PPG shifted")
    at = row_at(results)["mse"]
    levels = (("ppg_shuffled", "PPG of another subject"), ("mean_beat_ppg", "mean beat, PPG timing"))
    for name, label in levels:
        axis.axhline(at[name][0], color=_STYLE[name][0], ls="--", lw=1.2, label=label)
    axis.axvline(0, color="#bbbbbb", lw=0.8, zorder=0)
    axis.set_ylim(0, None)
    axis.set_xlabel("PPG later than recorded by [s] (circular)")
    axis.set_ylabel("masked MSE")
    axis.legend(frameon=False, fontsize=9)
    best, late = results["shift"][int(value.argmin())], late_shift(results)
    axis.set_title(
        f"PPG {late['shift_s']:g} s late: error {above(late['increase'])} that of the PPG as it was.\n"
        f"Least error at a shift of {best['shift_s']:g} s",
        fontsize=11,
    )
    return figure


def draw_lag(results: dict):
    """Draw attention by lag relative to even attention, a line for each head; None if the bridge has no blocks."""
    lag = results["lag"]
    lags, uniform = np.array(lag["lags_s"]), np.array(lag["uniform"])
    mass = np.array(lag["mass"])
    if not mass.size:
        return None
    near = np.abs(lags) <= lag["shown_s"] + 1e-9
    figure = _figure(7.5, 4.4)
    axis = figure.add_subplot()
    ratio = mass[:, :, near] / np.maximum(uniform[near], 1e-12)
    for heads in ratio:
        for by_lag in heads:
            axis.plot(lags[near], by_lag, color=SKY, lw=0.9, alpha=0.8)
    mean = ratio.mean((0, 1))
    axis.plot(lags[near], mean, "o-", color=BLUE, lw=2, ms=4, label="mean of all heads")
    axis.plot([], [], color=SKY, label="one head")
    axis.axhline(1, color="#888888", ls="--", lw=1, label="even attention")
    axis.axvspan(0.09, 0.45, color="#f0e6d2", lw=0, zorder=0, label="R peak to PPG foot, 5 to 95 % of people")
    axis.set_ylim(0, 1.08 * max(1.0, ratio.max()))
    axis.set_xlabel(f"lag: time of the PPG token minus time of the ECG token [s], in steps of {lag['patch_s']:g} s")
    axis.set_ylabel("attention / even attention")
    axis.legend(frameon=False, fontsize=9)
    axis.set_title(
        f"Attention of hidden ECG peaks at a lag of {lags[near][mean.argmax()]:+.2g} s,"
        f" with {mean.max():.2f} times even attention",
        fontsize=11,
    )
    return figure


def draw_probes(probes: dict[str, dict[str, ProbeResult | str]]):
    """Draw predicted against true values of each regression, pretrained above, random weights below; None if none."""
    drawn = {
        target: {features: result for features, result in by_features.items() if isinstance(result, ProbeResult)}
        for target, by_features in probes.items()
        if isinstance(by_features["pretrained"], ProbeResult) and target != "pvc"
    }
    targets = list(drawn)
    if not targets:
        return None
    names = {
        "heart_rate": "heart rate [bpm]", "pat_across": "arrival time [ms]",
        "pat_within": "arrival time less the subject's mean [ms]",
    }  # fmt: skip
    figure = _figure(4.1 * len(targets), 7.4)
    for column, target in enumerate(targets):
        for row, (features, colour) in enumerate((("pretrained", BLUE), ("random", GREY))):
            result = drawn[target][features]
            axis = figure.add_subplot(2, len(targets), row * len(targets) + column + 1)
            axis.scatter(result.labels, result.predictions, s=7, color=colour, alpha=0.45, lw=0, rasterized=True)
            ends = [result.labels.min(), result.labels.max()]
            margin = 0.05 * (ends[1] - ends[0])
            ends = [ends[0] - margin, ends[1] + margin]
            axis.plot(ends, ends, color="#333333", lw=0.9, ls="--")
            axis.set_xlim(*ends)
            axis.set_ylim(*ends)
            outside = int(((result.predictions < ends[0]) | (result.predictions > ends[1])).sum())
            note = f"; {outside} outside" if outside else ""
            r2 = result.metrics["R2"]
            name = {"random": "random weights"}.get(features, features)
            axis.set_title(f"{name}: R² {r2.value:.2f} [{r2.low:.2f}, {r2.high:.2f}]{note}", fontsize=10)
            axis.set_xlabel(f"true {names[target]}")
            axis.set_ylabel("predicted, unseen subject")
    segments = drawn[targets[0]]["pretrained"]
    figure.suptitle(f"Linear probes on pooled PPG tokens; subject-wise folds, {segments.subjects} subjects")
    return figure


def _figure(width: float, height: float):
    return new_figure(width, height, "Reports need", "eval")
