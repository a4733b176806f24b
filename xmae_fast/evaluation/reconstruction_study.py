"""Errors of masked reconstruction on held-out subjects: those of the model and those of simpler predictors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xmae_fast.evaluation import baselines
from xmae_fast.evaluation.beats import Beats, find_beats, mean_beat
from xmae_fast.evaluation.held_out import HeldOut
from xmae_fast.evaluation.probes.bootstrap import SubjectBootstrap
from xmae_fast.model.xmae import xMAE
from xmae_fast.ops.random_masking import MODES, PatchMask, random_masking

RATIOS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SHIFTS = (-0.4, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.4)  # s
MODEL = "model"
_BATCH = 128


@dataclass(frozen=True)
class Predictor:
    """A way to reconstruct the hidden ECG.

    Attributes:
        label: its name in reports.
        information: what it uses.
        kind: "signal" (no network), "input" (this model with another PPG), "model" (this or another checkpoint) or
            "bound" (it knows hidden ECG).
        fair: whether it is given no more than the model, so that it counts as a baseline.
    """

    label: str
    information: str
    kind: str
    fair: bool = True


_SIGNAL = {
    "visible_mean": Predictor("mean of the visible ECG", "visible ECG; without any, other subjects' mean", "signal"),
    "interpolation": Predictor("linear interpolation", "visible ECG on either side of a hidden span", "signal"),
    "mean_beat": Predictor(
        "mean beat, visible rhythm", "visible ECG, its rhythm continued evenly; other subjects' mean beat", "signal"
    ),
    "mean_beat_ppg": Predictor(
        "mean beat, PPG timing",
        "visible ECG, feet of the whole PPG, arrival time from visible beats; other subjects' mean beat",
        "signal",
    ),
    "subject_beat_ppg": Predictor(
        "subject's beat, PPG timing",
        "as mean beat, PPG timing, but the mean beat of the subject's other segments, unmasked",
        "signal",
        fair=False,
    ),
    "true_beat": Predictor(
        "subject's beat, true R peaks", "hidden R peaks, the subject's other segments: a bound", "bound", fair=False
    ),
}
_INPUT = {
    "ppg_shuffled": Predictor("model, PPG of another subject", "visible ECG, a wrong PPG", "input"),
    "ppg_zeroed": Predictor("model, PPG zeroed", "visible ECG; a flat PPG, unlike any in training", "input"),
    "bridge_off": Predictor("model, bridge off", "visible ECG; unlike training, which never went without", "input"),
}


def describe_predictors(names: Sequence[str], others: Sequence[str] = ()) -> dict[str, Predictor]:
    """The predictors of these names; `others` are the names of other checkpoints."""
    known = {MODEL: Predictor("model", "visible ECG, whole PPG", "model", fair=False)} | _SIGNAL | _INPUT
    known |= {name: Predictor(f"checkpoint {name}", "what its configuration uses", "model") for name in others}
    return {name: known[name] for name in names}


class Reconstructor:
    """Reconstructions of held-out ECG by a model.

    They equal `model(ppg, ecg, ids_keep_ecg=..., ids_restore_ecg=...)["ecg_reconstructed"]` in evaluation mode, but
    tokens are computed only once: those of the PPG do not depend on the mask, and those of the visible ECG, which are
    kept for the last mask, do not depend on the PPG.

    Args:
        model: it is put into evaluation mode.
        ecg: [S, L].
    """

    def __init__(self, model: xMAE, ecg: np.ndarray) -> None:
        if model.ecg_path is None:
            raise ValueError("model: expected one with an ECG encoder, got source='ppg'")
        self.model, self.path = model.eval(), model.ecg_path
        place = model.mask_token
        self.ecg = torch.from_numpy(ecg).to(place)
        self._seen: tuple[PatchMask, Tensor] | None = None

    @torch.no_grad()
    def tokens(self, ppg: np.ndarray) -> Tensor:
        """The tokens [S, N, D] of ppg [S, L]."""
        model = self.model
        signal = model.as_signal("ppg", torch.from_numpy(np.ascontiguousarray(ppg)).to(self.ecg))
        if model.ppg_path is None or signal is None:
            raise ValueError("model: expected one with a PPG encoder, got source='ecg'")
        encode = model.ppg_path.encode
        return torch.cat([encode(part, inference=True) for part in signal.split(_BATCH)])

    @torch.no_grad()
    def __call__(self, mask: PatchMask, tokens: Tensor | None) -> np.ndarray:
        """Reconstruct the ECG.

        Args:
            mask: with a row for each segment.
            tokens: [S, N, D] of the PPG; None for a reconstruction without PPG, and so without the bridge.

        Returns:
            [S, L] float32.
        """
        model, bridger, parts = self.model, self.model.bridger, []
        if bridger is None and tokens is not None:
            raise ValueError("model: expected one with a bridge, got one without")
        seen = None if tokens is None else self._visible(mask)
        for rows in torch.arange(len(self.ecg)).split(_BATCH):
            ecg, keep, restore = self.ecg[rows], mask.ids_keep[rows], mask.ids_restore[rows]
            if seen is None or tokens is None or bridger is None:
                out = model(None, ecg, ids_keep_ecg=keep, ids_restore_ecg=restore, return_embeddings=False)
                parts.append(out["ecg_reconstructed"][:, 0])
                continue
            queries = model.bridge_queries(seen[rows], keep)
            _, x = bridger(tokens[rows], seen[rows], q_ecg_override=queries)
            parts.append(self.path.decode_full_wave(x, restore, model.mask_token)[:, 0])
        return torch.cat(parts).float().cpu().numpy()

    def _visible(self, mask: PatchMask) -> Tensor:
        """The tokens [S, Nk, D] of the visible ECG."""
        if self._seen is None or self._seen[0] is not mask:
            encode = self.path.encode
            parts = zip(self.ecg[:, None].split(_BATCH), mask.ids_keep.split(_BATCH), strict=True)
            self._seen = mask, torch.cat([encode(ecg, keep, inference=True) for ecg, keep in parts])
        return self._seen[1]


class ReconstructionStudy:
    """Errors of a model and of its baselines on the same masks and segments.

    Args:
        model: with a bridge.
        held_out: the segments.
        others: further models by name, such as one trained on ECG alone, with the same lengths of segment and patch.
        seed: of masks, shuffling and resamples.
        resamples: of the bootstrap over subjects.

    Raises:
        ValueError: an argument is wrong; the message names it.
    """

    def __init__(
        self,
        model: xMAE,
        held_out: HeldOut,
        *,
        others: Mapping[str, xMAE] | None = None,
        seed: int = 77,
        resamples: int = 1000,
    ) -> None:
        if not model.has_bridge:
            wanted = "source='ppg+ecg', use_cross_bridge=True"
            raise ValueError(f"model: expected one with a bridge ({wanted}), got one without")
        others = dict(others or {})
        for name, other in others.items():
            _check_other(name, other, model)
        self.held_out, self.seed, self.model = held_out, seed, model
        self.bootstrap = SubjectBootstrap(held_out.subject, resamples, seed)
        self.beats: Beats = find_beats(held_out.ppg, held_out.ecg, held_out.subject, held_out.fs)
        self._mean = baselines.others_mean(held_out.ecg, held_out.subject)
        self._own = Reconstructor(model, held_out.ecg)
        tokens = self._own.tokens(held_out.ppg)
        partner = torch.from_numpy(baselines.partner_of_other_subject(held_out.subject, seed))
        flat = self._own.tokens(np.zeros_like(held_out.ppg[:1])).expand(len(held_out), -1, -1)
        self._variants: dict[str, tuple[Reconstructor, Tensor | None]] = {
            MODEL: (self._own, tokens), "ppg_shuffled": (self._own, tokens[partner]), "ppg_zeroed": (self._own, flat),
            "bridge_off": (self._own, None),
        }  # fmt: skip
        for name, other in others.items():
            run = Reconstructor(other, held_out.ecg)
            self._variants[name] = run, run.tokens(held_out.ppg) if other.has_bridge else None
        self.predictors = describe_predictors([*self._variants, *_SIGNAL], list(others))

    def mask(self, mode: str, ratio: float) -> PatchMask:
        """Draw a mask with a row for each segment, which is always the same for one seed.

        Args:
            mode: see `random_masking`.
            ratio: share of the patches that are hidden, in (0, 1].

        Raises:
            ValueError: an argument is wrong; the message names it.
        """
        if mode not in MODES:
            raise ValueError(f"mode: expected one of {', '.join(map(repr, MODES))}, got {mode!r}")
        N = self.model.cfg.num_patches
        if not 0 < ratio <= 1 or round(ratio * N) == 0:
            raise ValueError(f"ratio: expected one in (0, 1] that hides a patch of {N}, got {ratio}")
        generator = torch.Generator().manual_seed(self.seed)
        device = self.model.mask_token.device
        return random_masking(len(self.held_out), N, ratio, mode, generator=generator, device=device)

    def predict(self, name: str, mask: PatchMask) -> np.ndarray:
        """The reconstruction [S, L] by the predictor of this name."""
        if name in self._variants:
            run, tokens = self._variants[name]
            return run(mask, tokens)
        masked, ecg = self.samples(mask), self.held_out.ecg
        ways: dict[str, Callable[[], np.ndarray]] = {
            "visible_mean": lambda: baselines.visible_mean(ecg, masked, self._mean),
            "interpolation": lambda: baselines.linear_interpolation(ecg, masked, self._mean),
            "mean_beat": lambda: mean_beat(self.beats, masked, timing="ecg"),
            "mean_beat_ppg": lambda: mean_beat(self.beats, masked, timing="ppg"),
            "subject_beat_ppg": lambda: mean_beat(self.beats, masked, timing="ppg", template="subject"),
            "true_beat": lambda: mean_beat(self.beats, masked, timing="true", template="subject"),
        }
        return ways[name]()

    def samples(self, mask: PatchMask) -> np.ndarray:
        """[S, L] bool, True where the ECG is hidden."""
        return mask.patch_mask.cpu().numpy().repeat(self.model.cfg.patch_len, axis=1)

    def errors(self, mode: str, ratio: float) -> dict:
        """The masked MSE of every predictor, the best baseline, and by how much the model's error is below each.

        Args:
            mode, ratio: of the mask.

        Returns:
            {"mode", "ratio", "mse": {name: [value, low, high]}, "best_baseline": name, "reduction": {name: [value, low,
            high]}}, where a reduction is 1 - error of the model / error of the predictor, with paired intervals.
        """
        mask = self.mask(mode, ratio)
        masked, ecg = self.samples(mask), self.held_out.ecg
        by_segment = {
            name: baselines.masked_mse_by_segment(self.predict(name, mask), ecg, masked) for name in self.predictors
        }
        best = min((n for n, p in self.predictors.items() if p.fair), key=lambda name: by_segment[name].mean())
        reduction = self.bootstrap.reduction
        return {
            "mode": mode,
            "ratio": ratio,
            "mse": {name: list(self.bootstrap.mean(error)) for name, error in by_segment.items()},
            "best_baseline": best,
            "reduction": {n: list(reduction(by_segment[MODEL], e)) for n, e in by_segment.items() if n != MODEL},
        }

    def shift_curve(self, mode: str, ratio: float, shifts: Sequence[float] = SHIFTS) -> list[dict]:
        """The masked MSE when the PPG comes later.

        Args:
            mode, ratio: of the mask.
            shifts: seconds.

        Returns:
            For each shift, and for 0, {"shift_s", "mse": [value, low, high], "increase": [value, low, high]}, where the
            increase is the share by which the error is above that without a shift, with paired intervals.
        """
        mask, held_out = self.mask(mode, ratio), self.held_out
        masked = self.samples(mask)
        errors = {}
        for shift in sorted({*shifts, 0.0}):
            tokens = self._variants[MODEL][1]
            if shift:
                tokens = self._own.tokens(baselines.shifted(held_out.ppg, shift, held_out.fs))
            errors[shift] = baselines.masked_mse_by_segment(self._own(mask, tokens), held_out.ecg, masked)
        rows = []
        for shift, error in errors.items():
            reduction = self.bootstrap.reduction(error, errors[0.0])
            increase = [-reduction.value, -reduction.high, -reduction.low]
            rows.append({"shift_s": shift, "mse": list(self.bootstrap.mean(error)), "increase": increase})
        return rows


def _check_other(name: str, other: xMAE, model: xMAE) -> None:
    if name in _SIGNAL or name in _INPUT or name == MODEL:
        raise ValueError(f"others: expected names that are not taken, got {name!r}")
    if other.cfg.source == "ppg":
        raise ValueError(f"others: expected models that reconstruct ECG, {name!r} has source='ppg'")
    for field in ("seq_len", "patch_len"):
        got, wanted = getattr(other.cfg, field), getattr(model.cfg, field)
        if got != wanted:
            raise ValueError(f"others: expected {field} = {wanted} of {name!r} as of the model, got {got}")
