"""A loader in Lightning's own Trainer: epochs that differ, and checkpoints that go on where they were taken."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.data.layouts import write_published
from xmae_fast.data import SegmentDataset, SegmentLoader

L = pytest.importorskip("lightning.pytorch")
fabric = pytest.importorskip("lightning.fabric")

B, EPOCHS = 4, 3
OPTIONS = {"quality": 0, "augment": True}
pytestmark = pytest.mark.filterwarnings("ignore")
resumes_well = pytest.mark.skipif(
    [int(x) for x in re.findall(r"\d+", L.__version__)[:3]] < [2, 5, 6],
    reason="Lightning before 2.5.6, when it resumes, trains on one batch too many, or begins a pass and leaves it",
)


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """A shard of 18 segments, which make five batches."""
    path = tmp_path_factory.mktemp("shard") / "x.h5"
    write_published(path, np.random.default_rng(0).normal(size=(2, 18, 30)))
    return path


def make(shard, **options) -> SegmentLoader:
    return SegmentLoader(shard, B, num_threads=1, **OPTIONS, **options)


def epoch(shard, number, **options) -> list[torch.Tensor]:
    loader = make(shard, **options)
    loader.set_epoch(number)
    return [batch["ecg"] for batch in loader]


def same(got, want) -> bool:
    return len(got) == len(want) and all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


class Module(L.LightningModule):
    """A linear layer that keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen, self.validated = torch.nn.Linear(30, 1), [], []

    def training_step(self, batch, _):
        batch = batch if isinstance(batch, dict) else batch[0]
        self.seen.append(batch["ecg"].clone())
        return self.layer(batch["ppg"]).square().mean()

    def validation_step(self, batch, _):
        self.validated.append(batch["ecg"].clone())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)


def fit(train, val=None, *, module=None, checkpoint=None, callbacks=(), epochs=EPOCHS, **options) -> Module:
    module = module or Module()
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=bool(callbacks), callbacks=list(callbacks), **options,
    )  # fmt: skip
    trainer.fit(module, train, val, ckpt_path=checkpoint)
    return module


@pytest.mark.parametrize("validates", [False, True])
@pytest.mark.parametrize("limit", [1.0, 3])
def test_epochs_differ(shard, limit, validates):
    count = 5 if limit == 1.0 else limit
    val = make(shard) if validates else None
    seen = fit(make(shard), val, limit_train_batches=limit).seen
    assert same(seen, [x for number in range(EPOCHS) for x in epoch(shard, number)[:count]])


def test_further_fits_go_on_counting(shard):
    loader, module = make(shard), Module()
    next(iter(loader))  # someone looks at a batch
    for epochs in (1, 2, 1):
        fit(loader, module=module, epochs=epochs)
    assert same(module.seen, [x for number in range(4) for x in epoch(shard, number)])
    loader.set_epoch(9)
    assert same(fit(loader, epochs=2).seen, epoch(shard, 9) + epoch(shard, 10))


def test_loaders_that_are_made_again_each_epoch(shard):
    class Data(L.LightningDataModule):
        def train_dataloader(self):
            return make(shard)

    seen = fit(Data(), reload_dataloaders_every_n_epochs=1).seen
    assert same(seen, [x for number in range(EPOCHS) for x in epoch(shard, number)])


def test_a_short_loader_beside_a_longer_one(shard):
    """The shorter loader begins again within an epoch of the Trainer, and none of its epochs comes twice."""
    seen = fit([make(shard, drop_last=True), DataLoader(torch.zeros(10))], epochs=2).seen
    first = [epoch(shard, number, drop_last=True) for number in range(6)]
    assert same(seen, first[0] + first[1] + first[2][:2] + first[3] + first[4] + first[5][:2])


STOPS = {
    "step": {"every_n_train_steps": 1},
    "epoch": {"every_n_epochs": 1, "save_on_train_epoch_end": True},
    "validation": {"every_n_epochs": 1, "save_on_train_epoch_end": False},
}


@resumes_well
@pytest.mark.parametrize("kind", STOPS)
@pytest.mark.parametrize("limit", [1.0, 3])
def test_every_checkpoint_goes_on_as_the_run_did(shard, tmp_path, limit, kind):
    def val():
        return make(shard) if kind != "epoch" else None

    callback = L.callbacks.ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, **STOPS[kind])
    options = {"limit_train_batches": limit, "num_sanity_val_steps": 0}
    whole = fit(make(shard), val(), callbacks=[callback], **options)
    checkpoints = {int(re.search(r"step=(\d+)", path.name)[1]): path for path in tmp_path.iterdir()}
    count = 5 if limit == 1.0 else limit
    every = 1 if kind == "step" else count
    assert sorted(checkpoints) == list(range(every, 1 + EPOCHS * count, every))
    for step, path in checkpoints.items():
        resumed = fit(make(shard), val(), checkpoint=path, **options)
        assert same(resumed.seen, whole.seen[step:])
        if resumed.validated:
            assert same(resumed.validated, whole.validated[-len(resumed.validated) :])


@resumes_well
def test_a_run_that_was_resumed_again_and_again(shard, tmp_path):
    """Checkpoints within epochs. (After the last batch of an epoch, Lightning 2.6's own counters are wrong in the
    checkpoints of a run that went on.)"""
    whole, checkpoint = fit(make(shard)), None
    for done, step in ((0, 3), (3, 4), (4, 7), (7, 11), (11, 13)):
        callback = L.callbacks.ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
        assert same(fit(make(shard), checkpoint=checkpoint, callbacks=[callback]).seen, whole.seen[done:])
        checkpoint = tmp_path / "again.ckpt"
        (tmp_path / f"step={step}.ckpt").rename(checkpoint)
        for path in tmp_path.glob("step=*"):
            path.unlink()


def test_fabric(shard, tmp_path):
    """Checkpoints of the loader alone, taken anywhere."""
    run = fabric.Fabric(accelerator="cpu", devices=1)
    want, loader = [x for number in range(3) for x in epoch(shard, number)], make(shard)
    taken = 0
    for _ in range(2):
        for _ in loader:
            taken += 1
            run.save(tmp_path / f"{taken}.ckpt", {"loader": loader.state_dict()})
    for stop in range(1, taken + 1):
        resumed = make(shard)
        resumed.load_state_dict(run.load(tmp_path / f"{stop}.ckpt")["loader"])
        got = [batch["ecg"] for _ in range(3) for batch in resumed]
        assert same(got[: 15 - stop], want[stop:])


class Stored(L.LightningDataModule):
    """A DataLoader over a data set whose state goes with the checkpoint."""

    def __init__(self, shard, **options):
        super().__init__()
        self.data, self.options = SegmentDataset(shard, **OPTIONS), options

    def train_dataloader(self):
        return DataLoader(self.data, B, **self.options)

    def state_dict(self):
        return self.data.state_dict()

    def load_state_dict(self, state):
        self.data.load_state_dict(state)


@resumes_well
@pytest.mark.parametrize("options", [{}, {"num_workers": 1}, {"num_workers": 1, "persistent_workers": True}])
def test_a_data_set_in_a_data_loader(shard, tmp_path, options):
    want = [x for number in range(EPOCHS) for x in epoch(shard, number, shuffle=False)]
    callback = L.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    assert same(fit(Stored(shard, **options), callbacks=[callback]).seen, want)
    resumed = fit(Stored(shard, **options), checkpoint=tmp_path / "epoch=0.ckpt")
    assert same(resumed.seen, want[5:])


@pytest.mark.parametrize("options", [{}, {"num_workers": 1}])
def test_a_data_set_in_a_data_loader_of_fabric(shard, options):
    run = fabric.Fabric(accelerator="cpu", devices=1)
    loader = run.setup_dataloaders(DataLoader(SegmentDataset(shard, **OPTIONS), B, **options))
    for number in range(2):
        assert same([batch["ecg"] for batch in loader], epoch(shard, number, shuffle=False))
