"""Shards without ECG, and the PPG alone of shards with ECG."""

from __future__ import annotations

import json
import pickle

import h5py
import numpy as np
import pytest

from tests.data.packing import content, values, write_published
from xmae_fast.cli import main
from xmae_fast.data import (
    Layout,
    SegmentDataset,
    SegmentLoader,
    draw_examples,
    inspect_shards,
    open_index,
    repack,
    verify_packed,
)

N, L = 60, 200
PPG = {"signals": "ppg", "shuffle": False}


def write_alone(path, ppg: np.ndarray, **storage) -> None:
    """A packed shard without ECG."""
    with h5py.File(path, "w") as file:
        file.create_dataset("ppg", data=ppg, **storage)
        file["ppg_quality"] = np.linspace(0.5, 1, len(ppg))
        file["subject"] = np.array([f"d_{i % 3}" for i in range(len(ppg))], "S")
        file.attrs["sampling_freq"] = 100.0


def ppg_of(paths, **options) -> np.ndarray:
    loader = SegmentLoader(paths, 16, **PPG | {"quality": 0.0, "exclude_prefixes": ()} | options)
    batches = list(loader)
    assert all(set(batch) == {"ppg", "subject"} for batch in batches)
    return np.concatenate([batch["ppg"].numpy() for batch in batches])


@pytest.fixture
def shards(tmp_path):
    """A published shard, a packed one, and one of PPG alone with the same PPG."""
    signals = values(N, L)
    write_published(tmp_path / "published.h5", signals)
    repack(tmp_path / "published.h5", tmp_path / "packed.h5")
    write_alone(tmp_path / "alone.h5", signals[0])
    return tmp_path


@pytest.mark.parametrize("impl", ["cpu", "reference"])
@pytest.mark.parametrize("half", ["float16", "float32"])
def test_every_shard_gives_the_ppg_that_both_give(shards, impl, half):
    options = {"impl": impl, "normalize_dtype": half}
    both = SegmentLoader(shards / "published.h5", 16, shuffle=False, quality=0.0, **options)
    expected = np.concatenate([batch["ppg"].numpy().copy() for batch in both])
    for name in ("published.h5", "packed.h5", "alone.h5"):
        np.testing.assert_array_equal(ppg_of(shards / name, **options), expected)
    mixed = ppg_of([shards / "alone.h5", shards / "published.h5"], **options)
    np.testing.assert_array_equal(mixed, np.concatenate([expected, expected]))


@pytest.mark.parametrize("storage", [{"compression": "gzip"}, {"chunks": (7, 50)}])
def test_shards_that_cannot_be_mapped(shards, storage):
    expected = ppg_of(shards / "alone.h5")
    write_alone(shards / "other.h5", values(N, L)[0], **storage)
    assert not open_index(shards / "other.h5").shards[0].mapped
    np.testing.assert_array_equal(ppg_of(shards / "other.h5"), expected)
    with h5py.File(shards / "both.h5", "w") as file:
        for name, signal in zip(("ppg", "ecg"), values(N, L), strict=True):
            file.create_dataset(name, data=signal, **storage)
    np.testing.assert_array_equal(ppg_of(shards / "both.h5"), expected)


def test_augmentation_is_that_of_both(shards):
    options = {"quality": 0.0, "augment": True, "seed": 3}
    both, alone = (
        SegmentDataset(shards / "packed.h5", **options),
        SegmentDataset(shards / "alone.h5", signals="ppg", **options),
    )
    for data_set in (both, alone):
        data_set.set_epoch(2)
    items = list(range(N))
    for a, b in zip(both.__getitems__(items), alone.__getitems__(items), strict=True):
        assert set(b) == {"ppg", "subject"}
        np.testing.assert_array_equal(a["ppg"], b["ppg"])
    assert set(pickle.loads(pickle.dumps(alone))[3]) == {"ppg", "subject"}


def test_ecg_is_not_read(shards):
    """The bytes of the ECG may change as they like."""
    before = ppg_of(shards / "packed.h5")
    with h5py.File(shards / "packed.h5") as file:
        offset = file["ecg"].id.get_offset()
    loader = SegmentLoader(shards / "packed.h5", 16, quality=0.0, **PPG)
    mapping = loader.segments.opened()
    with open(shards / "packed.h5", "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * (N * L * 2))  # NaN
    mapping.check = lambda files: None  # the file has another time now, which is not what is tested
    np.testing.assert_array_equal(np.concatenate([batch["ppg"].numpy() for batch in loader]), before)
    with pytest.raises(ValueError, match=f"rejected: {N} non-finite"):
        SegmentLoader(shards / "packed.h5", 16, quality=0.0)
    np.testing.assert_array_equal(ppg_of(shards / "packed.h5"), before)


def test_bad_ecg_does_not_matter(tmp_path):
    """Segments whose ECG is bad are used for their PPG, those whose PPG is bad are not."""
    ppg, ecg = values(N, L)
    ecg[:10], ecg[10] = 0, np.nan
    ppg[10:15] = 1
    for name, storage in (("mapped.h5", {}), ("other.h5", {"compression": "gzip"})):
        with h5py.File(tmp_path / name, "w") as file:
            for signal, x in (("ppg", ppg), ("ecg", ecg)):
                file.create_dataset(signal, data=x, **storage)
            file["ecg_quality"] = np.zeros(N)
        both = SegmentLoader(tmp_path / name, 16, quality=0.0)
        assert (len(both.segments), both.rejected) == (N - 15, {"constant": 14, "non-finite": 1})
        alone = SegmentLoader(tmp_path / name, 16, quality=0.9, **PPG)
        assert (len(alone.segments), alone.rejected) == (N - 5, {"constant": 5})
        assert len(ppg_of(tmp_path / name)) == N - 5
    with pytest.raises(ValueError, match="0014|record 10: segment is constant"):
        SegmentLoader(tmp_path / "mapped.h5", 16, quality=0.9, on_bad="raise", **PPG)


def test_quality_counts_for_the_ppg(shards):
    counted = SegmentLoader(shards / "alone.h5", 16, quality=0.9, **PPG)
    assert len(counted.segments) == int((np.linspace(0.5, 1, N) >= 0.9).sum())
    assert counted.rejected == {"low ppg quality": N - len(counted.segments)}
    assert len(SegmentDataset(shards / "alone.h5", signals="ppg", quality=(0.9, 2.0))) == len(counted.segments)
    assert "PPG alone" in counted.explain()


def test_both_signals_are_refused(shards, tmp_path):
    for make in (SegmentLoader, SegmentDataset):
        with pytest.raises(ValueError, match=r"shard .*alone.h5: expected PPG and ECG, .*signals=.ppg. reads the PPG"):
            make([shards / "packed.h5", shards / "alone.h5"])
    with pytest.raises(ValueError, match="signals: expected one of 'both', 'ppg', None, got 'ecg'"):
        SegmentLoader(shards / "packed.h5", signals="ecg")
    with pytest.raises(ValueError, match=r"shard .*packed.h5: expected PPG and ECG, .* found no data set 'EKG'"):
        SegmentLoader(shards / "packed.h5", layout=Layout(ecg="EKG"))


def test_a_broken_link_is_no_shard_without_ecg(shards):
    with h5py.File(shards / "alone.h5", "r+") as file:
        file["ecg"] = h5py.ExternalLink("gone.h5", "ecg")
    with pytest.raises(ValueError, match="or data sets 'ppg' and 'ecg'; found 'ecg', 'ppg'"):
        ppg_of(shards / "alone.h5")


def test_pretrain_says_in_one_line_that_it_needs_both(shards, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    settings = {"data": [str(shards / "alone.h5")], "seg_len": 2, "batch_size": 8, "accelerator": "cpu"}
    config.write_text(json.dumps(settings | {"model_params": {"patch_len": 50}}))
    assert main(["pretrain", "-c", str(config), "-e", "x", "--runs", str(tmp_path / "runs"), "--quiet"]) == 2
    [told] = capsys.readouterr().err.strip().splitlines()
    assert "alone.h5: expected PPG and ECG, as pretraining needs, found no data set 'ecg'" in told


def test_indexes_of_shards_with_ecg_stay_as_they_were(shards):
    open_index(shards / "packed.h5")
    open_index(shards / "alone.h5")
    about = {}
    for name in ("packed", "alone"):
        with np.load(shards / f".{name}.h5.index.npz") as stored:
            about[name] = json.loads(stored["meta"].tobytes())
    assert "signals" not in about["packed"]  # an older version does not know this field and makes its index again
    assert about["alone"]["signals"] == "ppg"
    index = open_index(shards / "alone.h5")
    assert (index.ecg_offset == -1).all()
    assert np.isnan(index.quality[:, 1]).all()


def test_inspect(shards, tmp_path, capsys):
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    report = inspect_shards(shards / "alone.h5")
    assert (report.ecg_quality, report.refused, report.used) == (None, "", 12)
    assert report.shards[0].signals == "ppg"
    mixed = inspect_shards([shards / "alone.h5", shards / "packed.h5"], quality=0.0)
    assert mixed.ecg_quality is not None
    assert (mixed.ecg_quality.reached, mixed.ppg_quality.reached, mixed.used) == (N, 2 * N, 2 * N)
    assert mixed.refused == 'PPG alone in some shards, which needs signals="ppg"'
    picture = tmp_path / "picture.png"
    assert main(["inspect", str(shards / "alone.h5"), "--quality", "0", "--picture", str(picture)]) == 0
    told = capsys.readouterr().out
    assert "ECG" not in told
    assert "PPG" in told
    assert picture.stat().st_size > 1000
    draw_examples([shards / "alone.h5", shards / "packed.h5"], picture, count=5)
    assert main(["inspect", str(shards / "packed.h5")]) == 0
    assert "signals" not in capsys.readouterr().out.splitlines()[2]


def test_inspect_looks_at_the_ppg_alone_as_the_loader_does(shards):
    """Segments with a bad ECG are used beside a shard without ECG, those with a bad PPG are not."""
    ppg, ecg = values(N, L)
    ecg[:10], ppg[10:15] = 0, 1
    with h5py.File(shards / "bad.h5", "w") as file:
        file["ppg"], file["ecg"] = ppg, ecg
    report = inspect_shards(shards / "bad.h5", quality=0.0)
    assert (report.used, report.problems) == (N - 15, {"constant": 15})
    paths = [shards / "bad.h5", shards / "alone.h5"]
    report = inspect_shards(paths, quality=0.0)
    assert (report.used, report.problems) == (2 * N - 5, {"constant": 5})
    assert report.used == len(SegmentDataset(paths, signals="ppg", quality=0.0))


def test_repack(shards):
    report = repack(shards / "alone.h5", shards / "copy.h5")
    assert list(report.checksums) == ["ppg"]
    assert "ppg" in verify_packed(shards / "copy.h5")
    with h5py.File(shards / "copy.h5") as file:
        assert not {"ecg", "ecg_quality"} & set(file)
        np.testing.assert_array_equal(file["ppg"], values(N, L)[0])
        assert file.attrs["signals"] == "ppg"
    np.testing.assert_array_equal(ppg_of(shards / "copy.h5"), ppg_of(shards / "alone.h5"))
    repack([shards / "published.h5", shards / "alone.h5"], shards / "mixed.h5", signals="ppg")
    np.testing.assert_array_equal(ppg_of(shards / "mixed.h5"), ppg_of([shards / "published.h5", shards / "alone.h5"]))
    with pytest.raises(ValueError, match="alone.h5: expected PPG and ECG"):
        repack([shards / "published.h5", shards / "alone.h5"], shards / "no.h5")
    repack(shards / "packed.h5", shards / "again.h5")
    assert content(shards / "again.h5")["ppg"] == content(shards / "packed.h5")["ppg"]
    assert content(shards / "again.h5")["format_version"] == 1


def test_a_finished_copy_of_the_ppg_alone(shards):
    """The same call again says that it is done, and other calls that the file is there."""
    for name, options in (("alone", {}), ("packed", {"signals": "ppg"})):
        made = repack(shards / f"{name}.h5", shards / "copy.h5", overwrite=True, **options)
        again = repack(shards / f"{name}.h5", shards / "copy.h5", **options)
        assert (again.checksums, again.resumed) == (made.checksums, N)
        assert list(again.checksums) == ["ppg"]
    with pytest.raises(FileExistsError, match=r"copy.h5 exists already, made with other settings \(overwrite=True"):
        repack(shards / "packed.h5", shards / "copy.h5")
    with pytest.raises(FileExistsError, match="packed.h5 exists already, made with other settings"):
        repack(shards / "published.h5", shards / "packed.h5", signals="ppg")


def test_a_damaged_copy_is_found(shards):
    repack(shards / "alone.h5", shards / "copy.h5")
    with h5py.File(shards / "copy.h5", "r+") as file:
        file["ppg"][3, 4] += 1
    with pytest.raises(ValueError, match="its values are not those that were written, expected ppg sha256"):
        verify_packed(shards / "copy.h5")
