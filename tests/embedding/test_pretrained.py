"""Folders of pretrained models, their recipe and card, and the way to the Hub, which a folder replaces here."""

from __future__ import annotations

import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch

import xmae_fast
from tests.embedding.conftest import CFG
from xmae_fast import Recipe, from_pretrained, save_checkpoint, xMAE
from xmae_fast.model.storage.hub import import_hub

FILES = ["README.md", "config.json", "model.safetensors", "preprocessing.json"]


def same(loaded: xMAE, model: xMAE) -> bool:
    theirs = model.state_dict()
    return loaded.cfg == model.cfg and all(torch.equal(x, theirs[name]) for name, x in loaded.state_dict().items())


def test_round_trip_without_network_or_hub(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # importing it is an error
    folder = model.save_pretrained(tmp_path / "deep" / "model")
    assert sorted(path.name for path in folder.iterdir()) == FILES
    loaded = xMAE.from_pretrained(folder, impl="reference")
    assert same(loaded, model)
    assert loaded.impl == "reference"
    assert not loaded.training
    assert loaded.preprocessing == Recipe.for_model(CFG)
    assert json.loads((folder / "config.json").read_text())["seq_len"] == 500
    with pytest.raises(ImportError, match=r"'owner/name' does not exist here; .* pip install \"xmae_fast\[hub\]\""):
        from_pretrained("owner/name")
    with pytest.raises(ImportError, match=r'pip install "xmae_fast\[hub\]"'):
        model.push_to_hub("owner/name")


def test_the_recipe_travels(model, tmp_path):
    recipe = Recipe(segment_s=5, high_hz=6.0, quality_threshold=0.8)
    model.save_pretrained(tmp_path, recipe=recipe)
    loaded = from_pretrained(tmp_path)
    assert loaded.preprocessing == recipe
    loaded.save_pretrained(tmp_path / "again")
    assert from_pretrained(tmp_path / "again").preprocessing == recipe
    assert "0.5 to 6 Hz" in (tmp_path / "README.md").read_text()
    with pytest.raises(ValueError, match="preprocessing: expected segments of 500 samples at 100 Hz.*, got 1000"):
        model.save_pretrained(tmp_path, recipe=Recipe())
    (tmp_path / "preprocessing.json").write_text(json.dumps(recipe.to_dict() | {"clean": "x"}))
    with pytest.raises(ValueError, match=r"preprocessing.json: preprocessing.clean: expected"):
        from_pretrained(tmp_path)
    (tmp_path / "preprocessing.json").write_text("{")
    with pytest.raises(ValueError, match=r"preprocessing.json: "):
        from_pretrained(tmp_path)


def test_files_and_runs_are_taken_too(model, tmp_path):
    run = tmp_path / "runs" / "first"
    (run / "checkpoints").mkdir(parents=True)
    save_checkpoint(model, run / "checkpoints" / "best.ckpt")
    assert same(from_pretrained(run), model)
    assert same(from_pretrained(run / "checkpoints" / "best.ckpt"), model)
    with pytest.raises(FileNotFoundError, match=r"expected a folder with model.safetensors .*checkpoints/best.ckpt"):
        from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"'a/b/c' does not exist"):
        from_pretrained("a/b/c")


def test_card_of_a_run(model, tmp_path):
    pytest.importorskip("yaml")
    about = {
        "xmae_fast": "0.1.0", "python": "3.11.7", "packages": {"torch": "2.13.0"}, "host": "secret-host",
        "git": {"commit": "0123456789abcdef", "changed": False},
        "data": {
            part: {"segments": n, "subjects": n // 10, "shards": [{"path": "/secret/path/x.h5"}]}
            for part, n in (("train", 16170), ("val", 870))
        },
        "result": {"status": "finished", "steps": 1218, "epochs": 4, "val_loss": 0.0732, "best_val_loss": 0.0731,
                   "elapsed_s": 7200.0},
    }  # fmt: skip
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(FileNotFoundError, match=r"run: expected the folder of a run"):
        model.save_pretrained(tmp_path / "model", run=run)
    (run / "run.json").write_text(json.dumps(about))
    (run / "config.yaml").write_text("lr: 0.001\nbatch_size: 64\ndata: [/secret/path]\n")
    model.save_pretrained(tmp_path / "model", run=run, name="mine")
    card = (tmp_path / "model" / "README.md").read_text()
    loss = "masked MSE of the validation 0.0732, at best 0.0731"
    data = "16,170 segments of 1,617 subjects"
    for part in ("# mine", "library_name: xmae_fast", data, loss, "| lr | 0.001 |", "1,218 steps", "does not train"):
        assert part in card
    assert "secret" not in card
    dataset = 'name: "870 segments of 87 subjects, the validation of its pretraining"'
    for part in (dataset, "- type: mse", "value: 0.0731"):  # in the metadata
        assert part in card.split("---")[1]
    (tmp_path / "model" / "README.md").write_text("edited")
    model.save_pretrained(tmp_path / "model", run=run)
    assert (tmp_path / "model" / "README.md").read_text() == "edited"
    model.save_pretrained(tmp_path / "model", overwrite_card=True)
    assert "not recorded here" in (tmp_path / "model" / "README.md").read_text()
    (run / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"run: expected .*run.json as pretraining writes it, it is damaged"):
        model.save_pretrained(tmp_path / "model", run=run)


def test_to_the_hub_and_back(model, tmp_path, monkeypatch):
    """A folder takes the place of the Hub: what is pushed can be loaded by its id."""
    hub = tmp_path / "hub"

    class NotThere(Exception):
        pass

    class Api:
        def __init__(self, token=None):
            assert token == "t"

        def create_repo(self, repo_id, private, exist_ok):
            assert exist_ok
            (hub / repo_id).mkdir(parents=True)

        def upload_folder(self, repo_id, folder_path, **_):
            shutil.copytree(folder_path, hub / repo_id, dirs_exist_ok=True)
            return f"https://hub/{repo_id}/commit/1"

    def snapshot_download(repo_id, allow_patterns, revision, **_):
        if not (hub / repo_id).is_dir():
            raise NotThere("404 for this repository\nlong story")
        assert set(FILES) == set(allow_patterns)
        return str(hub / repo_id)

    errors = SimpleNamespace(RepositoryNotFoundError=NotThere, LocalEntryNotFoundError=NotThere)
    played = SimpleNamespace(HfApi=Api, snapshot_download=snapshot_download, errors=errors)
    monkeypatch.setattr("xmae_fast.model.storage.hub.import_hub", lambda *_: played)
    assert model.push_to_hub("me/tiny", token="t") == "https://hub/me/tiny/commit/1"
    assert same(from_pretrained("me/tiny"), model)
    assert "# tiny" in (hub / "me" / "tiny" / "README.md").read_text()
    with pytest.raises(FileNotFoundError, match=r"'me/none' is neither on disk nor to be had: 404 for this rep.*y$"):
        from_pretrained("me/none")
    with pytest.raises(ValueError, match="repo_id: expected 'owner/name', got 'tiny'"):
        model.push_to_hub("tiny")


def test_the_hubs_own_package_has_what_is_used():
    hub = pytest.importorskip("huggingface_hub")
    assert callable(hub.snapshot_download)
    assert hasattr(hub.HfApi, "upload_folder")
    assert issubclass(import_hub().errors.RepositoryNotFoundError, Exception)
    assert issubclass(hub.errors.LocalEntryNotFoundError, Exception)
    assert xmae_fast.from_pretrained is from_pretrained
