"""Raw signals, and files of every format that `prepare` reads."""

from __future__ import annotations

import gzip
from pathlib import Path

import h5py
import numpy as np

from xmae_fast.data import SimulationCfg, simulate

FS = 125
N = 1250


def windows(subjects: int, each: int, seed: int = 5, fs: int = FS, **changes) -> tuple[np.ndarray, np.ndarray]:
    """(ppg, ecg), (subjects * each, 10 s at `fs`) simulated, rather noisy, with units and offsets of recordings."""
    noisy = {"ppg_noise": 0.05, "ecg_noise": 0.03, "motion_probability": 0.3, "pvc_probability": 0.05}
    sim = simulate(subjects, each, seed=seed, cfg=SimulationCfg(sampling_freq=fs, **noisy | changes))
    return 0.5 + 0.3 * sim.ppg.astype(np.float64), 1.2 * sim.ecg.astype(np.float64) - 0.1


def continuous(seconds: int = 40, fs: int = FS, seed: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """(ppg, ecg), (seconds * fs,) of one person."""
    noise = {"ppg_noise": 0.02, "motion_probability": 0.0}
    sim = simulate(1, 1, seed=seed, cfg=SimulationCfg(sampling_freq=fs, seg_len=float(seconds), **noise))
    return 0.5 + 0.3 * sim.ppg[0].astype(np.float64), 1.2 * sim.ecg[0].astype(np.float64) - 0.1


def write_mat(path: Path, ppg: np.ndarray, ecg: np.ndarray, subject: str, segment: int = 3) -> None:
    """PulseDB's layout, as MATLAB writes it: `Subj_Wins/<field>` (1, P) references to elements in `#refs#`."""
    with h5py.File(path, "w") as file:
        struct, refs = file.create_group("Subj_Wins"), file.create_group("#refs#")

        def field(name: str, elements: list[np.ndarray], kind: str = "double") -> None:
            data_set = struct.create_dataset(name, (1, len(elements)), h5py.ref_dtype)
            for i, element in enumerate(elements):
                stored = refs.create_dataset(f"{name}{i}", data=element)
                stored.attrs["MATLAB_class"] = np.bytes_(kind)
                data_set[0, i] = stored.ref

        count = len(ppg)
        field("PPG_Raw", [row[None] for row in ppg])
        field("ECG_Raw", [row[None] for row in ecg])
        field("PPG_F", [row[None] for row in ppg])
        field("T", [(10 * i + np.arange(ppg.shape[1]) / FS)[:, None] for i in range(count)])
        field("SubjectID", [np.array([[ord(c)] for c in subject], np.uint16)] * count, "char")
        for name, first in (("SegmentID", segment), ("WinID", 1), ("WinSeqID", 7)):
            step = 0 if name == "SegmentID" else 1
            field(name, [np.array([[float(first + step * i)]]) for i in range(count)])


def write_csv(path: Path, ppg: np.ndarray, ecg: np.ndarray, fs: float = FS, drop: slice | None = None) -> None:
    """BIDMC's columns; `drop` leaves rows out."""
    rows = np.stack([np.arange(len(ppg)) / fs, np.zeros(len(ppg)), ppg, ecg], 1)
    if drop is not None:
        rows = np.delete(rows, drop, axis=0)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt") as file:
        file.write("Time [s], RESP, PLETH, II\n")
        np.savetxt(file, rows, delimiter=",", fmt="%.9g")


def write_wfdb(folder: Path, name: str, ppg: np.ndarray, ecg: np.ndarray, fs: float = FS) -> None:
    """A record with ECG at `fs` and PPG at half of it: `ppg` has half the samples."""
    import wfdb

    wfdb.wrsamp(
        name, fs=fs / 2, units=["NU", "mV"], sig_name=["Pleth", "II"], e_p_signal=[ppg, ecg], samps_per_frame=[1, 2],
        fmt=["16", "16"], write_dir=str(folder),
    )  # fmt: skip


def write_edf(path: Path, ppg: np.ndarray, ecg: np.ndarray, ppg_fs: int, ecg_fs: int) -> None:
    import pyedflib

    with pyedflib.EdfWriter(str(path), 2) as file:
        for i, (label, fs) in enumerate((("Pleth", ppg_fs), ("ECG II", ecg_fs))):
            limits = {"physical_max": 3.0, "physical_min": -3.0, "digital_max": 32767, "digital_min": -32768}
            header = {"label": label, "dimension": "mV", "sample_frequency": fs, "transducer": "", "prefilter": ""}
            file.setSignalHeader(i, header | limits)
        file.writeSamples([ppg, ecg])
