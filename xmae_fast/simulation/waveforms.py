"""Computes the samples of ECG and PPG from the times of beats. Times are in seconds; the first sample is at 0."""

import math
from statistics import NormalDist

import numpy as np

from xmae_fast.simulation.config import SimulationCfg
from xmae_fast.simulation.rhythm import Draws, Rhythm

# P, Q, R, S, T of ECGSYN (McSharry et al., IEEE TBME 50(3):289-294, 2003, Table I). Height a*b^2 is what the ODE's
# Gaussian forcing a*dtheta*exp(-dtheta^2 / 2b^2) integrates to at constant angular speed; relative to R here.
_ANGLES = np.radians([-70.0, -15.0, 0.0, 15.0, 100.0])
_WIDTHS = np.array([0.25, 0.1, 0.1, 0.1, 0.4])
_HEIGHTS = np.array([1.2, -5.0, 30.0, -7.5, 0.75]) * _WIDTHS**2 / 0.3
_HEIGHT_SPREAD = np.array([0.25, 0.4, 0.0, 0.4, 0.3])  # standard deviation of the logarithm over subjects
_WIDTH_SPREAD = np.array([0.1, 0.1, 0.1, 0.1, 0.1])


def ecg_waveform(rhythm: Rhythm, draws: Draws, cfg: SimulationCfg) -> np.ndarray:
    """The ECG without noise; the R wave is about 1.

    It is the sum of the five Gaussians of ECGSYN over the phase 2 pi (t - R) / RR of the beats on either side of each
    sample. Angles and widths are scaled by sqrt(heart rate / 60), as in ECGSYN. The ODE is not integrated: its
    relaxation term -(z - z0), which smears each wave into the next by a few percent of its height, is left out; the
    angular speed changes from beat to beat instead of continuously; amplitude and width vary by subject. PVCs are drawn
    in time: they have one wide QRS, no P wave, and a T wave of opposite sign.

    Returns:
        [n, L] float32.
    """
    phase_scale = np.sqrt(1 / rhythm.rr.mean(1, keepdims=True))
    angles = _ANGLES * phase_scale ** np.array([0.5, 1, 1, 1, 0.5])
    widths = _WIDTHS * phase_scale * np.exp(_WIDTH_SPREAD * draws.subject_normal[:, 2:7])
    heights = _HEIGHTS * np.exp(_HEIGHT_SPREAD * draws.subject_normal[:, 7:12])

    time = _time(cfg)
    beat = _last_event(rhythm.r_times, cfg)
    breathing = _breathing(rhythm, rhythm.r_times, draws.uniform[:, 5])
    size = np.where(rhythm.is_pvc, 0, 1 + 0.05 * breathing).astype(np.float32)
    speed = _take(2 * np.pi / rhythm.rr, beat)
    ecg = np.zeros((len(beat), len(time)), np.float32)
    for side in (0, 1):
        phase = (time - _take(rhythm.r_times, beat + side)) * speed
        wave = np.zeros_like(ecg)
        for c in range(5):
            wave += _gaussian(phase, angles[:, c, None], widths[:, c, None], heights[:, c, None])
        ecg += wave * _take(size, beat + side)
    _add_pvcs(ecg, rhythm, draws, time)
    return ecg


def ppg_waveform(rhythm: Rhythm, draws: Draws, cfg: SimulationCfg) -> np.ndarray:
    """The PPG without noise; the systolic peak is about 1.

    Each beat has a pulse of a systolic wave (a Gaussian rise with standard deviation `rise`, and a slower Gaussian
    fall), a dicrotic wave and a diastolic tail. Its foot is the intersecting-tangent point of the isolated pulse, where
    the tangent at the steepest upslope meets the level before the pulse. For a Gaussian rise with its peak at p this is
    exactly p - 2 * rise, and this point is put at R time + PAT. In the sum of all pulses, the falling tail of the pulse
    before delays a detected foot by 2 ms below 60 bpm and by 7 ms above 80 bpm. Shape and size use random numbers of
    their own, none of which tells the PAT; `cfg.pat_coupling` ties the rise and the delay of the dicrotic wave to it.

    Returns:
        [n, L] float32.
    """
    normal = draws.subject_normal[:, 12:18].copy()
    score = _normal_score(draws.subject_uniform[:, 0])
    for column in (0, 3):  # rise, delay of the dicrotic wave
        normal[:, column] *= math.sqrt(1 - cfg.pat_coupling)
        normal[:, column] += math.sqrt(cfg.pat_coupling) * score
    shape = np.exp(normal * np.array([0.15, 0.2, 0.3, 0.08, 0.15, 0.35]))
    stretch = np.sqrt(rhythm.rr.mean(1))
    rise = 0.07 * shape[:, 0]
    fall = 0.14 * shape[:, 1] * stretch
    dicrotic, dicrotic_at, dicrotic_width = (
        0.3 * shape[:, 2],
        0.28 * stretch * shape[:, 3],
        0.09 * stretch * shape[:, 4],
    )
    tail, tail_at, tail_width = 0.12 * shape[:, 5], 0.48 * stretch, 0.15 * stretch

    depth_u, lag_u = draws.uniform[:, 6:8].T
    size = 1 + (0.03 + 0.09 * depth_u)[:, None] * _breathing(rhythm, rhythm.r_times, lag_u)
    size *= 1 + 0.03 * draws.beat[:, 2]
    weak = 0.15 + 0.35 * draws.subject_uniform[:, 2, None]
    size = np.where(rhythm.is_pvc, size * weak, size)
    size[:, 1:] *= np.where(rhythm.is_pvc[:, :-1], 1.15, 1)

    time = _time(cfg)
    feet = rhythm.r_times + rhythm.pat
    dicrotic_delay = dicrotic_at[:, None] + cfg.pat_coupling * (rhythm.pat - rhythm.subject_pat[:, None])
    last = _last_event(feet, cfg)
    ppg = np.zeros((len(last), len(time)), np.float32)
    for offset in (-1, 0, 1):
        since_peak = time - _take(feet, last + offset) - _column(2 * rise)
        width = np.where(since_peak < 0, _column(rise), _column(fall))
        pulse = _gaussian(since_peak, 0, width, 1)
        pulse += _gaussian(since_peak, _take(dicrotic_delay, last + offset), _column(dicrotic_width), _column(dicrotic))
        pulse += _gaussian(since_peak, _column(tail_at), _column(tail_width), _column(tail))
        ppg += pulse * _take(size, last + offset)
    return ppg


def disturbances(rhythm: Rhythm, draws: Draws, cfg: SimulationCfg) -> tuple[np.ndarray, ...]:
    """The disturbances that a recording adds to the signals.

    Noise consists of white noise, the burst of motion (in the ECG a fifth of it), and powerline interference.

    Returns:
        The wander of the PPG, that of the ECG, the noise of the PPG and that of the ECG, [n, L] float32 each, and the
        share of each segment that is under a burst of motion, [n].
    """
    time = _time(cfg)
    level = np.exp(cfg.noise_spread * draws.normal[:, 3:8])
    slow_f, slow_phase, line_phase, ppg_lag, ecg_lag = draws.uniform[:, 8:13].T
    slow = np.sin(2 * np.pi * (_column(0.03 + 0.07 * slow_f) * time + _column(slow_phase)))
    wanders = [
        _column(amplitude * level[:, i]) * (slow + _breathing(rhythm, time, lag))
        for i, (amplitude, lag) in enumerate(((cfg.ppg_wander, ppg_lag), (cfg.ecg_wander, ecg_lag)))
    ]
    burst, fraction = _motion(draws, cfg, time)
    line = np.sin(2 * np.pi * (cfg.powerline_freq * time + _column(line_phase)))
    ppg_noise = _column(cfg.ppg_noise * level[:, 2]) * draws.noise[:, 0] + burst
    ecg_noise = _column(cfg.ecg_noise * level[:, 3]) * draws.noise[:, 1] + 0.2 * burst
    ecg_noise += _column(cfg.powerline_amplitude * level[:, 4]) * line
    return *wanders, ppg_noise, ecg_noise, fraction


def _motion(draws: Draws, cfg: SimulationCfg, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The burst of motion in each segment, [n, L], and the share of the segment under it, [n]."""
    happens, start, length, strength = draws.uniform[:, 13:17].T
    duration = np.minimum(0.5 + 3 * length, cfg.seg_len)
    begin = start * (cfg.seg_len - duration)
    elapsed = time - _column(begin)
    inside = (elapsed >= 0) & (elapsed < _column(duration)) & (happens < cfg.motion_probability)[:, None]
    burst = np.zeros_like(elapsed)
    rows = np.flatnonzero(inside.any(1))
    for i in range(3):
        frequency, phase = 0.7 + 4 * draws.uniform[rows, 17 + i], draws.uniform[rows, 20 + i]
        burst[rows] += np.sin(2 * np.pi * (_column(frequency) * elapsed[rows] + _column(phase)))
    window = np.sin(np.pi * elapsed / _column(duration)) ** 2
    return np.where(inside, burst * window * _column(0.3 + 0.9 * strength), 0), inside.mean(1)


def _add_pvcs(ecg: np.ndarray, rhythm: Rhythm, draws: Draws, time: np.ndarray) -> None:
    """Add the waves of premature beats to `ecg` [n, L]."""
    rows, beats = np.nonzero(rhythm.is_pvc)
    width = 0.045 * np.exp(0.15 * draws.subject_normal[rows, 18])
    height = 1.2 * np.exp(0.15 * draws.subject_normal[rows, 19])
    since = time - _column(rhythm.r_times[rows, beats])
    waves = ((0, 1, 1), (2.2, 0.9, -0.7), (7, 2, -0.5))  # R', S', T': centre and width in units of `width`, height
    shape = sum(_gaussian(since, _column(at * width), _column(w * width), _column(h * height)) for at, w, h in waves)
    np.add.at(ecg, rows, shape)


def _time(cfg: SimulationCfg) -> np.ndarray:
    return (np.arange(cfg.seq_len) / cfg.sampling_freq).astype(np.float32)


def _normal_score(uniform: np.ndarray) -> np.ndarray:
    """Turn numbers that are uniform in [0, 1) into standard normal numbers of the same order."""
    bell = NormalDist()
    return np.array([bell.inv_cdf(min(max(u, 1e-9), 1 - 1e-9)) for u in uniform.tolist()])


def _breathing(rhythm: Rhythm, time: np.ndarray, lag: np.ndarray) -> np.ndarray:
    """The sine of the breathing phase at `time`, [L] or [n, beats]; `lag` [n] is in cycles."""
    offset = rhythm.respiration_phase + 2 * np.pi * lag
    return np.sin(_column(2 * np.pi * rhythm.respiration) * time.astype(np.float32) + _column(offset))


def _last_event(events: np.ndarray, cfg: SimulationCfg) -> np.ndarray:
    """For each sample the number of the last of the rising `events` [n, beats] that is not after it; [n, L]."""
    rows, samples = len(events), cfg.seq_len
    first = np.clip(np.ceil(events * cfg.sampling_freq), 0, samples).astype(np.intp)
    flat = first + np.arange(rows)[:, None] * (samples + 1)
    steps = np.bincount(flat.ravel(), minlength=rows * (samples + 1)).reshape(rows, samples + 1)
    return np.cumsum(steps[:, :samples], axis=1) - 1


def _take(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values.astype(np.float32), index, axis=1)


def _column(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)[:, None]


def _gaussian(x, centre, width, height) -> np.ndarray:
    """height * exp(-(x - centre)^2 / 2 width^2), in float32."""
    z = (x - np.float32(centre)) / np.float32(width)
    z *= z
    z *= np.float32(-0.5)
    return np.exp(z, out=z) * np.float32(height)
