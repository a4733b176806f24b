"""examples/finetune.py, with a tiny model."""

import importlib.util
from pathlib import Path

import torch

import xmae_fast

EXAMPLE = Path(__file__).parents[2] / "examples" / "finetune.py"


def test_finetune_trains_the_encoder_and_the_head(capsys):
    assert len(EXAMPLE.read_text().splitlines()) <= 60
    spec = importlib.util.spec_from_file_location("finetune", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    torch.manual_seed(0)
    cfg = xmae_fast.ModelCfg(patch_len=50, d_model=16, nhead=2, depth_ppg=1, stem_ch=4, proj_dim=8, dropout=0.0)
    model = xmae_fast.xMAE(cfg)
    before = model.ppg_path.patcher.proj.weight.detach().clone()
    score = example.finetune(model, subjects=6, epochs=2, batch=16)
    assert 0 <= score <= 1
    assert capsys.readouterr().out.count("AUROC on unseen subjects") == 2
    assert not torch.equal(before, model.ppg_path.patcher.proj.weight)
