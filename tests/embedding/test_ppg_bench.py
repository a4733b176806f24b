"""The encoder for ppg-bench: its two methods, windows of other lengths, gradients for finetuning."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.embedding.conftest import pulses
from xmae_fast import Embedder
from xmae_fast.embedding.ppg_bench import XmaePort


@pytest.mark.parametrize(("seconds", "windows", "samples"), [(5, 1, 500), (16, 3, 500), (2.1, 1, 200)])
def test_windows_of_any_length(model, tmp_path, seconds, windows, samples):
    model.save_pretrained(tmp_path)
    port = XmaePort({"ckpt_path": str(tmp_path), "target_fs": 125})
    x = np.stack([pulses(seconds, 125, seed=seed) for seed in range(3)])
    batch = port.prepare_batch({"x": torch.from_numpy(x).float()}, {}, "cpu")
    assert batch.shape == (3, windows, samples)
    encoder = port.load_encoder().eval()
    found = encoder(batch)
    assert found.shape == (3, 16)
    if seconds >= 5:
        alone = Embedder(model, check=False)(x[1].astype(np.float32), 125).embeddings.mean(0)
        np.testing.assert_allclose(found[1].detach(), alone, atol=1e-3)
    encoder.train()(batch).sum().backward()
    assert encoder.path.stem.lat1.weight.grad.abs().sum() > 0
    assert port.load_encoder() is not encoder


def test_errors(model, tmp_path):
    model.save_pretrained(tmp_path)
    init = {"ckpt_path": str(tmp_path), "target_fs": 125}
    assert XmaePort(init | {"output": "projected"}).load_encoder()(torch.zeros(2, 1, 500)).shape == (2, 8)
    with pytest.raises(ValueError, match="init.output: expected 'pooled' or 'projected', got 'tokens'"):
        XmaePort(init | {"output": "tokens"})
    with pytest.raises(ValueError, match=r"init.ckpt_path: expected it or init.model in the YAML, got \['target_fs'\]"):
        XmaePort({"target_fs": 125})
    with pytest.raises(ValueError, match="init.ckpt_path: expected it or init.model"):
        XmaePort(init | {"model": "xmae-sim-small"})
    with pytest.raises(ValueError, match="init.target_fs: expected the rate in Hz"):
        XmaePort({"model": "xmae-sim-small"})
    with pytest.raises(ValueError, match=r"init.outptu: expected one of ckpt_path, model, target_fs, output, impl"):
        XmaePort(init | {"outptu": "pooled"})
    assert XmaePort({"model": "xmae-sim-small", "target_fs": 64}).recipe.segment_s == 10
    with pytest.raises(ValueError, match=r"x: expected at least a patch of 0.5 s, got 0.4 s"):
        XmaePort(init).prepare_batch({"x": torch.zeros(2, 50)}, {}, "cpu")
