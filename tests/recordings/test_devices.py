"""Exports of devices, as their makers lay them out."""

from __future__ import annotations

import numpy as np
import pytest

from xmae_fast.recordings import Reading, RecordingError, find_sources, read_recording

pytest.importorskip("pandas")

ONLY_PPG = Reading(signals="ppg")


def pulse(fs, seconds=40, noise=0.0, seed=1):
    """A pulse wave of 72 beats a minute, [samples]."""
    t = np.arange(round(fs * seconds)) / fs
    phase = 2 * np.pi * 1.2 * t
    return np.sin(phase) + 0.4 * np.sin(2 * phase + 1) + noise * np.random.default_rng(seed).normal(size=len(t))


def test_an_e4_session_is_one_recording(tmp_path):
    folder = tmp_path / "session"
    folder.mkdir()
    values = np.round(100 * pulse(64), 2)
    head = "1586886626.000000\n{}\n"
    (folder / "BVP.csv").write_text(head.format("64.000000") + "".join(f"{x:.2f}\n" for x in values))
    three = ", ".join(["1586886626.000000"] * 3) + "\n" + ", ".join(["32.000000"] * 3) + "\n"
    (folder / "ACC.csv").write_text(three + "1,2,63\n" * 99)
    for name, rate in (("HR", "1.000000"), ("EDA", "4.000000"), ("TEMP", "4.000000")):
        (folder / f"{name}.csv").write_text(head.format(rate) + "30.1\n" * 99)
    (folder / "IBI.csv").write_text("1586886626.000000, IBI\n10.2,0.8\n")
    (folder / "tags.csv").write_text("")
    (folder / "info.txt").write_text(".csv files in this archive are in the following format:\n")
    sources, aside = find_sources(folder)
    assert [source.name for source in sources] == ["BVP.csv"]
    assert aside == {".csv": 6, ".txt": 1}
    (folder / "tags.csv").write_text("1586886700.12\n")
    assert len(find_sources(folder)[0]) == 1
    (folder / "S1_watch.csv").write_bytes((folder / "BVP.csv").read_bytes())
    found = read_recording(folder / "S1_watch.csv", ONLY_PPG)
    np.testing.assert_array_equal(found.ppg.values[0], values)
    assert (found.ppg.fs, found.start, found.form) == (64, "2020-04-14T17:50:26+00:00", "Empatica E4")
    assert read_recording(folder / "BVP.csv", ONLY_PPG._replace(fs=63.9)).ppg.fs == 63.9
    with pytest.raises(RecordingError, match=r"found 3 columns at 32 Hz: BVP\.csv has it"):
        read_recording(folder / "ACC.csv", ONLY_PPG)


def test_polar_sensor_logger(tmp_path):
    path = tmp_path / "Polar_Sense_PPG.txt"
    fs, begin = 55, 599616050941733632  # ns since 2000
    channels = [1e5 * pulse(fs, noise=noise, seed=seed) + 4e5 for seed, noise in enumerate((3, 0.02, 2))]
    ambient = np.full(len(channels[0]), 184836)
    lines = ["Phone timestamp;sensor timestamp [ns];channel 0;channel 1;channel 2;ambient"]
    for i, row in enumerate(zip(*channels, ambient, strict=True)):
        phone = np.datetime64("2024-04-24T14:10:15.270") + np.timedelta64(int(i // 36 * 36 * 1000 / fs), "ms")
        lines.append(";".join([str(phone), str(begin + round(i * 1e9 / fs)), *(f"{x:.0f}" for x in row)]))
    path.write_text("\n".join(lines) + "\n")
    found = read_recording(path, ONLY_PPG)
    assert found.ppg.name == "channel 1"
    np.testing.assert_array_equal(found.ppg.values[0], np.round(channels[1]))
    assert found.ppg.fs == pytest.approx(fs, abs=0.01)
    assert found.start == "2024-04-24T14:10:15.270000"
    assert any("Polar Sensor Logger" in note for note in found.notes)
    head = "Phone timestamp;sensor timestamp [ns];X [mg];Y [mg];Z [mg]\n"
    rows = [f"2024-04-24T14:10:15.{k:03d};{begin + k};1;2;3\n" for k in range(99)]
    (tmp_path / "Polar_Sense_ACC.txt").write_text(head + "".join(rows))
    (tmp_path / "Polar_Sense_HR.txt").write_text("Phone timestamp;HR [bpm]\n" + "2024-04-24T14:10:15.270;60\n" * 30)
    sources, aside = find_sources(tmp_path)
    assert ([source.name for source in sources], aside) == (["Polar_Sense_PPG.txt"], {".txt": 2})


@pytest.mark.parametrize(("mark", "first"), [("\t", '"sep=\\t"'), (",", '"sep=,"'), ("\t", "")])
def test_shimmer(tmp_path, mark, first):
    path = tmp_path / "x_Calibrated_SD.csv"
    fs = 128
    ppg, ecg = 1500 + 100 * pulse(fs), pulse(fs, seed=2)
    names = [
        "Timestamp_Unix_CAL",
        "GSR_Skin_Conductance_CAL",
        "PPG_A13_CAL",
        "ECG_LA_RA_24BIT_CAL",
        "ECG_LL_RA_24BIT_CAL",
    ]
    lines = [first] if first else []
    lines += [
        mark.join(f"Shimmer_4086_{name}" for name in names) + mark,
        mark.join(["ms", "uS", "mV", "mV", "mV"]) + mark,
    ]
    for i, (p, e) in enumerate(zip(ppg, ecg, strict=True)):
        time = 1585886626000 + i * 1000 / fs
        lines.append(mark.join([f"{time:.4f}", "2.1", f"{p:.4f}", "0.1", f"{e:.4f}"]) + mark)
    path.write_text("\n".join(lines) + "\n")
    found = read_recording(path)
    assert (found.ppg.name, found.ecg.name) == ("Shimmer_4086_PPG_A13_CAL", "Shimmer_4086_ECG_LL_RA_24BIT_CAL")
    np.testing.assert_array_equal(found.ppg.values[0], np.round(ppg, 4))
    assert found.ppg.fs == pytest.approx(fs, abs=0.01)
    assert found.start.startswith("2020-04-03T04:03:46")


def test_colours_of_a_camera(tmp_path):
    path = tmp_path / "x.csv"
    fs = 30
    red, green = pulse(fs, noise=5), pulse(fs, noise=0.02, seed=3)
    rows = [f"{1000 * i / fs:.0f},{r:.3f},{g:.3f},0.0\n" for i, (r, g) in enumerate(zip(red, green, strict=True))]
    path.write_text("time,R,G,B\n" + "".join(rows))
    found = read_recording(path, ONLY_PPG)
    assert found.ppg.name == "G"
    assert any("camera" in note for note in found.notes)
    assert found.ppg.fs == pytest.approx(fs, abs=0.1)
    path.write_text("time,R,S\n" + "".join(f"{i / fs:.4f},{r:.3f},0\n" for i, r in enumerate(red)))
    with pytest.raises(RecordingError, match="expected a channel with a name of PPG, found 'time', 'R', 'S'"):
        read_recording(path, ONLY_PPG)
