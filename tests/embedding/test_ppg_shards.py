"""Shards of PPG alone are embedded; of shards with ECG, the PPG alone is read."""

from __future__ import annotations

import h5py
import numpy as np

from xmae_fast import embed_files, read_embeddings

OPTIONS = {"batch_size": 32, "device": "cpu"}


def test_the_embeddings_are_those_of_shards_with_ecg(model, packed, tmp_path):
    with h5py.File(packed) as source, h5py.File(tmp_path / "alone.h5", "w") as alone:
        for name in source:
            if "ecg" not in name:
                source.copy(name, alone)
        with h5py.File(tmp_path / "bad.h5", "w") as bad:
            for name in source:
                source.copy(name, bad)
            bad["ecg"][...] = 0
    report = embed_files(packed, tmp_path / "both", model, **OPTIONS)
    expected = read_embeddings(tmp_path / "both")
    assert report.rows == 90
    for name in ("alone", "bad"):
        embed_files(tmp_path / f"{name}.h5", tmp_path / name, model, **OPTIONS)
        found = read_embeddings(tmp_path / name)
        np.testing.assert_array_equal(found.embeddings, expected.embeddings)
        np.testing.assert_array_equal(found.columns["ppg_quality"], expected.columns["ppg_quality"])
    assert np.isnan(read_embeddings(tmp_path / "alone").columns["ecg_quality"]).all()
