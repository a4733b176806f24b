"""Programs around the published model, written again from its description, run with the library's model unchanged."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor

from tests.model.stock import model as stock
from tests.model.stock.pair import IMPLEMENTATIONS, TINY, B, L, N, batch, build, create, ids, weights
from xmae_fast import masked_mse

CONFIGURATION = {
    "sampling_freq": 50,
    "seg_len": 2,
    "source": "PPG+ECG",
    "batch_size": 4,
    "lr": 3e-3,
    "model_params": {
        "patch_len": 10, "d_model": 32, "nhead": 4, "depth_ecg": 1, "depth_ppg": 2, "depth_bridge": 1, "stem_ch": 8,
        "dropout": 0.0, "latent_dim": 24, "use_cross_bridge": True,
    },
}  # fmt: skip


def star(which: str) -> dict[str, object]:
    """The names that a notebook has after the star import; impl= is chosen afterwards, as it has no such argument."""
    names: dict[str, object] = {}
    exec(f"from {'tests.model.stock.model' if which == 'stock' else 'xmae_fast.model'} import *", names)
    return names


def choose(model: torch.nn.Module, which: str) -> torch.nn.Module:
    if which != "stock":
        model.impl = which
    return model


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_notebook_of_embeddings(which, tmp_path):
    """A checkpoint of the published form, a batch of PPG, and the embedding made of the path's parts."""
    state = {f"model.{key}": value for key, value in weights().items()}
    torch.save({"state_dict": state, "hyper_parameters": CONFIGURATION, "epoch": 3}, tmp_path / "last.ckpt")
    names = star(which)
    nn = names["nn"]
    checkpoint = names["torch"].load(tmp_path / "last.ckpt", map_location="cpu", weights_only=False)
    model = choose(names["build_model_from_cfg"](checkpoint["hyper_parameters"]), which)
    loaded = {key.removeprefix("model."): value for key, value in checkpoint["state_dict"].items()}
    model.load_state_dict(loaded, strict=True)
    model.eval()
    ppg = batch()["ppg"]
    path = model.ppg_path
    with torch.no_grad():
        x = path._ensure_B1L(ppg)
        features = path.stem(x)
        tokens = path.patcher(features)
        tokens = path.encoder(tokens + path.pos[:, : tokens.size(1)])
        pooled = tokens.mean(dim=1)
        embedding = path.proj(pooled)
        normal = nn.functional.normalize(embedding, dim=-1)
        whole = model(ppg=ppg, return_recon=False)["ppg_embedding"]
        keep, _ = path._identity_ids(ppg.size(0), ppg.device)
        by_helper = path.visible_tokens_from_wave(x, keep)
        want = build("stock", dtype=torch.float64)(ppg.double())["ppg_embedding"]
    assert features.shape == (B, TINY["stem_ch"], L)
    assert (normal @ normal.T).diagonal().allclose(torch.ones(B))
    torch.testing.assert_close(embedding, whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(by_helper, tokens, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(embedding.double(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_notebook_of_reconstructions(which):
    """Masked reconstruction by the helper methods, and by forward."""
    model, inputs = build(which), batch()
    keep, restore = inputs["ids_keep_ecg"], inputs["ids_restore_ecg"]
    with torch.no_grad():
        ppg_ids, _ = model.ppg_path._identity_ids(B, inputs["ppg"].device)
        t_ppg = model.ppg_path.visible_tokens_from_wave(model.ppg_path._ensure_B1L(inputs["ppg"]), ppg_ids)
        t_ecg = model.ecg_path.visible_tokens_from_wave(model.ecg_path._ensure_B1L(inputs["ecg"]), keep)
        queries = model.ecg_path.make_query_tokens_from_pre_encoded(t_ecg, keep, t_ppg)
        t_ppg, t_ecg_bridged = model.bridger(t_ppg, t_ecg, alpha=1.0, q_ecg_override=queries)
        reconstructed = model.ecg_path.decode_full_wave(t_ecg_bridged, restore, model.mask_token)
        mask = model.ecg_path.seqmask_from_ids_restore(restore, t_ecg.size(1), model.patch_len)
        whole = model(inputs["ppg"], inputs["ecg"], ids_keep_ecg=keep, ids_restore_ecg=restore)
        exact = {key: x.double() if x.is_floating_point() else x for key, x in inputs.items() if "_ppg" not in key}
        want = build("stock", dtype=torch.float64)(**exact)
    torch.testing.assert_close(reconstructed, whole["ecg_reconstructed"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(reconstructed.double(), want["ecg_reconstructed"], rtol=1e-4, atol=1e-4)
    assert torch.equal(mask, whole["seq_mask_used_ecg"])
    assert torch.equal(mask, want["seq_mask_used_ecg"])


def published_loss(results: dict[str, Tensor], ecg: Tensor) -> Tensor:
    mask = results["seq_mask_used_ecg"]
    return (mask * (results["ecg_reconstructed"] - ecg.unsqueeze(1)) ** 2).sum() / mask.sum().clamp_min(1.0)


@functools.cache
def losses_of_many(which: str, dtype: torch.dtype) -> tuple[float, float]:
    """The loss of 90 samples of 1000, written out and by `masked_mse`."""
    rows, changes = 90, {"seq_len": 1000, "patch_len": 100, "d_model": 8, "nhead": 2, "stem_ch": 4}
    generator = torch.Generator().manual_seed(9)
    keep, restore = ids(2, generator, rows, 10)
    ppg, ecg = (torch.randn(rows, 1000, generator=generator).to(dtype) for _ in range(2))
    model = create(which, **changes)
    model.load_state_dict(weights(**changes))
    with torch.no_grad():
        results = model.to(dtype).eval()(ppg, ecg, ids_keep_ecg=keep, ids_restore_ecg=restore)
    mask = results["seq_mask_used_ecg"]
    assert mask.sum() == rows * 800 > torch.finfo(torch.float16).max
    return published_loss(results, ecg).item(), masked_mse(results["ecg_reconstructed"], ecg, mask).item()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_the_loss_of_a_model_in_16_bits(which, dtype):
    """More masked samples than float16 can count: the mask, and with it the sum over it, is float32."""
    want, _ = losses_of_many("stock", torch.float32)
    assert want > 0.1
    assert losses_of_many(which, dtype) == pytest.approx([want, want], rel=1e-2 if dtype == torch.float16 else 5e-2)


def anchor_ids(rows: int, visible: int) -> tuple[Tensor, Tensor]:
    """The published masks: one run of visible patches in each row."""
    start = torch.randint(0, N - visible + 1, (rows, 1))
    place = torch.arange(N)
    masked = (place < start) | (place >= start + visible)
    order = masked.int().argsort(dim=1, stable=True)
    return order[:, :visible], order.argsort(dim=1)


def lightning_module():
    """The class, made here as Lightning is optional."""
    import lightning

    class Pretraining(lightning.LightningModule):
        """A LightningModule of the published kind: it knows the model by its forward and its configuration alone."""

        def __init__(self, build_model, **cfg) -> None:
            super().__init__()
            self.save_hyperparameters(ignore=["build_model"])
            self.cfg, self.model = cfg, build_model(cfg)
            self.losses: list[float] = []

        def step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            ppg, ecg = batch
            keep, restore = anchor_ids(len(ppg), 2)
            everything = self.model.ppg_path._identity_ids(len(ppg), ppg.device)
            results = self.model(
                ppg=ppg, ecg=ecg, ids_keep_ppg=everything[0], ids_restore_ppg=everything[1], ids_keep_ecg=keep,
                ids_restore_ecg=restore,
            )  # fmt: skip
            return published_loss(results, ecg)

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            loss = self.step(batch)
            self.losses.append(loss.item())
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
            self.log("val_loss", self.step(batch))

        def configure_optimizers(self) -> dict[str, object]:
            optimizer = torch.optim.AdamW(self.parameters(), lr=self.cfg["lr"], weight_decay=0.01, betas=(0.9, 0.95))
            steps = self.trainer.estimated_stepping_batches
            warm = max(1, steps // 10)

            def rate(step: int) -> float:
                if step < warm:
                    return (step + 1) / warm
                return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return Pretraining


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_lightning_module(which, averaged, tmp_path):
    """The same program trains both models to the same weights, and its checkpoint builds the published model."""
    lightning = pytest.importorskip("lightning")
    generator = torch.Generator().manual_seed(10)
    data = torch.utils.data.TensorDataset(*(torch.randn(8, L, generator=generator) for _ in range(2)))
    trained = []
    for kind in ("stock", which):
        torch.manual_seed(77)
        names = star(kind)
        module = lightning_module()(
            lambda cfg, names=names, kind=kind: choose(names["build_model_from_cfg"](cfg), kind), **CONFIGURATION
        )
        callbacks = [lightning.pytorch.callbacks.StochasticWeightAveraging(1e-3, swa_epoch_start=1)] if averaged else []
        trainer = lightning.Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, callbacks=callbacks,
        )  # fmt: skip
        loaders = [torch.utils.data.DataLoader(data, batch_size=4, shuffle=shuffle) for shuffle in (True, False)]
        trainer.fit(module, *loaders)
        trainer.save_checkpoint(tmp_path / f"{kind}.ckpt")
        trained.append((module.losses, float(trainer.callback_metrics["val_loss"]), module.model.state_dict()))
    (want_losses, want_val, want), (losses, val, got) = trained
    assert len(losses) == len(want_losses) >= 4
    assert losses == pytest.approx(want_losses, rel=1e-3)
    assert val == pytest.approx(want_val, rel=1e-3)
    assert list(got) == list(want)
    for key in want:
        if "running" in key:
            torch.testing.assert_close(got[key], want[key], rtol=1e-2, atol=1e-3)

    checkpoint = torch.load(tmp_path / f"{which}.ckpt", weights_only=False)
    assert checkpoint["hyper_parameters"] == CONFIGURATION
    model = stock.build_model_from_cfg(checkpoint["hyper_parameters"])
    model.load_state_dict({key.removeprefix("model."): x for key, x in checkpoint["state_dict"].items()}, strict=True)
