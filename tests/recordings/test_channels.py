"""Channels are found by the names that people give them."""

from __future__ import annotations

import pytest

from xmae_fast.recordings import names
from xmae_fast.recordings.channels import candidates

PPG = (
    "wrist_ppg", "Finger PPG", "PPG_Green", "IR", "green", "red", "infrared", "BVP", "PLETHr", "SpO2 waveform",
    "SpO₂ wave", "pleth_1", "PlethWave", "PPGGreen", "LED_IR", "IR1", "Photoplethysmogram", "Pulse Wave",
    "SpO2 pleth", "ppg, mV", "Pleth.", "PLETH-1 [NU]", "device/finger_ppg (a.u.)", "ppg_64Hz",
)  # fmt: skip
ECG = (
    "Lead II", "Lead 2", "ECG1-ECG2", "EKG II", "MLII", "ECG LA-RA", "ecg (mV)", "chest ecg", "ecg_lead_ii",
    "Electrocardiogram", "ECG L", "ECG L-ECG R", "Lead I", "Lead V5", "LL-RA", "EKG-Chest", "EKG_250Hz", "DII",
    "Derivation II",
)  # fmt: skip
NEITHER = (
    "PLETH_HR", "PULSE", "SpO2", "PLETH SQI", "HR", "PR", "Pleth Rate", "PLETH_SPO2", "PPG_Rate", "PPG_Quality",
    "PPG_Peaks", "ECG_Rate", "ECG_R_Peaks", "HR ECG", "acc_x", "wrist_gyro_x", "Infrared Temp", "ppg_fs", "ecg_fs",
    "RESP", "time", "ABP", "PPG Time", "SpO2 %", "ECG lead off", "ECG_ST_II", "SpO2 waveform quality", "red_count",
    "DI", "freq_hz",
)  # fmt: skip


@pytest.mark.parametrize(("kind", "other", "known"), [("PPG", "ECG", PPG), ("ECG", "PPG", ECG)])
def test_names_as_people_write_them(kind, other, known):
    for name in known:
        assert candidates([*NEITHER, name], kind) == [len(NEITHER)], name
        with pytest.raises(ValueError, match=f"expected a channel with a name of {other}"):
            candidates([*NEITHER, name], other)


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("PPG", ["green", "wrist_ppg", "PPG"], [2]),
        ("PPG", ["green", "SpO2 wave", "wrist_ppg"], [2]),
        ("PPG", ["red", "green", "IR", "SpO2 wave"], [3]),
        ("PPG", ["red", "green", "IR"], [0, 1, 2]),
        ("PPG", ["PPG_Red", "PPG_Green", "ir"], [0, 1]),
        ("ECG", ["Lead II", "ECG"], [1]),
        ("ECG", ["Lead II", "V1"], [1]),
        ("ECG", ["Lead I", "Lead II", "Lead III"], [1]),
        ("ECG", ["chest ecg", "Lead I"], [0]),
    ],
)
def test_better_names_go_before_others(kind, given, expected):
    assert candidates(given, kind) == expected


def test_names_can_be_added(monkeypatch):
    monkeypatch.setattr(names, "ADDED", added := {"PPG": [], "ECG": []})
    monkeypatch.setattr("xmae_fast.recordings.channels.ADDED", added)
    names.add_name("PPG", "Optode*")
    names.add_name("PPG", "Optode*")
    assert added["PPG"] == ["Optode*"]
    assert candidates(["PPG", "optode 1", "optode 2"], "PPG") == [1, 2]
    assert candidates(["PPG", "a"], "PPG") == [0]
    with pytest.raises(ValueError, match="kind: expected 'PPG' or 'ECG'"):
        names.add_name("EEG", "x")
    with pytest.raises(ValueError, match="name: expected a name"):
        names.add_name("ECG", " ")
