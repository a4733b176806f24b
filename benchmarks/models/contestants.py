"""The contestants' models: one set of weights in every form, and one training step for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.harness.context import DROPOUT, MASK_RATIO, Context
from benchmarks.harness.numerics import season
from benchmarks.models.plain import PlainXMAE
from benchmarks.models.stock import set_dropout
from xmae_fast import _graphs as graphs
from xmae_fast import masked_mse, random_masking, xMAE
from xmae_fast import training as xmae_training


class Batch(NamedTuple):
    """ppg, ecg [B, L]; visible ECG patches ids_keep [B, Nk], ids_restore [B, N]."""

    ppg: Tensor
    ecg: Tensor
    ids_keep: Tensor
    ids_restore: Tensor

    def double(self) -> Batch:
        return self._replace(ppg=self.ppg.double(), ecg=self.ecg.double())


Loss = Callable[[Batch], tuple[Tensor, Tensor]]  # loss, prediction


def batches(context: Context, B: int) -> list[Batch]:
    """Batches to rotate through, with anchor masks."""
    torch.manual_seed(0)
    masks = random_masking(B, context.cfg.num_patches, MASK_RATIO, device=context.device, impl="reference")
    return [Batch(ppg, ecg, masks.ids_keep, masks.ids_restore) for ppg, ecg in context.batches(B)]


def our_model(context: Context, impl: str, *, training: bool = False) -> xMAE:
    torch.manual_seed(0)
    model = xMAE(context.cfg, impl=impl).train(training)
    return season(model).to(context.device)


def plain_model(context: Context, *, training: bool = False) -> PlainXMAE:
    """The published-style model with our_model's weights."""
    model = PlainXMAE(context.cfg).train(training).to(context.device)
    model.load_state_dict(our_model(context, "reference").state_dict(), strict=True)
    return model


def our_reconstruction(model: xMAE) -> Callable[[Batch], tuple[Tensor, Tensor]]:
    def reconstruct(batch: Batch) -> tuple[Tensor, Tensor]:
        ids = {"ids_keep_ecg": batch.ids_keep, "ids_restore_ecg": batch.ids_restore}
        out = model(batch.ppg, batch.ecg, **ids, return_embeddings=False)
        return out["ecg_reconstructed"], out["seq_mask_used_ecg"]

    return reconstruct


def our_loss(model: xMAE) -> Loss:
    reconstruct = our_reconstruction(model)

    def loss(batch: Batch) -> tuple[Tensor, Tensor]:
        prediction, mask = reconstruct(batch)
        return masked_mse(prediction, batch.ecg, mask, impl=model.impl), prediction

    return loss


def plain_loss(model: PlainXMAE) -> Loss:
    def loss(batch: Batch) -> tuple[Tensor, Tensor]:
        prediction, mask = model(*batch)
        return (mask * (prediction - batch.ecg[:, None]) ** 2).sum() / mask.sum().clamp(min=1), prediction

    return loss


def adamw(parameters: Iterable[Tensor], fused: bool | None = None) -> torch.optim.AdamW:
    """The published optimiser; `fused`: PyTorch's fused form of it instead of its default one."""
    return torch.optim.AdamW(parameters, lr=3e-4, weight_decay=0.01, betas=(0.9, 0.95), fused=fused)


class Trainer:
    """One contestant's training: calling it makes one step (masks, forward, loss, backward, AdamW) as published.

    Args:
        loss: Batch -> loss, prediction; may be compiled.
        masks: draws ids_keep, ids_restore of a batch.
        data: batches to rotate through; their own masks serve `probe`.
        fused: the fused AdamW instead of PyTorch's default one.
        autocast: makes the context that the forward runs in.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        masks: Callable[[], tuple[Tensor, Tensor]],
        data: list[Batch],
        *,
        fused: bool | None = None,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self.model, self.loss, self.masks, self.data = model, loss, masks, data
        self.fused, self.autocast = fused, autocast
        self.initial = {name: x.clone() for name, x in model.state_dict().items()}
        self._restart()

    def __call__(self, i: int) -> Tensor:
        ids_keep, ids_restore = self.masks()
        loss, _ = self._forward(self.data[i % len(self.data)]._replace(ids_keep=ids_keep, ids_restore=ids_restore))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def probe(self) -> dict[str, Tensor]:
        """What the first step computes on the first batch without dropout; the initial weights are back afterwards."""
        self._restart()
        set_dropout(self.model, 0.0)
        loss, prediction = self._forward(self.data[0])
        loss.backward()
        gradients = {name: x.grad for name, x in self.model.named_parameters() if x.grad is not None}
        result = {
            "prediction": prediction.detach().clone(),
            "loss": loss.detach().clone(),
            "gradient": torch.cat([gradients[name].flatten() for name in sorted(gradients)]),
        }
        self.optimizer.step()
        self.optimizer.zero_grad()
        result["loss after the step"] = self._forward(self.data[0])[0].detach().clone()
        set_dropout(self.model, DROPOUT)
        self._restart()
        return result

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with self.autocast():
            return self.loss(batch)

    def _restart(self) -> None:
        self.model.load_state_dict(self.initial)
        self.optimizer = adamw(self.model.parameters(), self.fused)


class GraphedTrainer(Trainer):
    """`xmae_fast.training.GraphedStep`: the whole step as one CUDA graph; `probe` checks the same model eagerly."""

    def __init__(self, model: xMAE, data: list[Batch], *, autocast: torch.dtype | None, graph: bool = True) -> None:
        self.autocast_dtype, self.graph = autocast, graph
        device = model.mask_token.device.type
        context = (lambda: torch.autocast(device, autocast)) if autocast is not None else nullcontext
        super().__init__(model, our_loss(model), lambda: data[0][2:], data, fused=True, autocast=context)

    def __call__(self, i: int) -> Tensor:
        if self.step is None:
            optimizer = xmae_training.adamw(self.model.parameters())
            self.step = xmae_training.GraphedStep(
                self.model, optimizer, mask_ratio=MASK_RATIO, autocast=self.autocast_dtype, graph=self.graph
            )
            for number in range(graphs.WARM_UP + 1):
                self.step(*self.data[number % len(self.data)][:2])
            if self.graph and self.step.reason and self.step.device.type == "cuda":
                raise RuntimeError(f"GraphedStep made no graph: {self.step.reason}")
        return self.step(*self.data[i % len(self.data)][:2])

    def _restart(self) -> None:
        super()._restart()
        self.step: xmae_training.GraphedStep | None = None
