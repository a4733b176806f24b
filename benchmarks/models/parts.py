"""The model cut into the operators that it calls, each with the inputs that it has inside the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.harness.counts import embed_flops, forward_flops
from benchmarks.models.contestants import Batch, our_loss
from xmae_fast import ops, xMAE
from xmae_fast.model.blocks import attention_dropout, attention_params, dropout_rate, feed_forward_params
from xmae_fast.ops.cases import all_cases

WHOLE = "the whole, in one call"


class Stage(NamedTuple):
    """`run(model, *inputs, *data)` -> one tensor; a gradient goes to `inputs` and weights, none to `data`."""

    name: str
    run: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    data: tuple[Tensor, ...]
    flops: int


def embedding_stages(model: xMAE, batch: Batch) -> list[Stage]:
    """`embed` of `batch`, stage by stage, then the whole; inputs are what `model` computes."""
    recorder = _Recorder(model, len(batch.ppg))
    tokens = recorder.encode("ppg", batch.ppg[:, None], model.cfg.depth_ppg)
    head = 2 * len(batch.ppg) * model.cfg.d_model * model.cfg.proj_dim
    recorder.add("embedding head", head, lambda m, x: m.ppg_path.embedding(x), tokens)
    recorder.add(WHOLE, embed_flops(model.cfg, len(batch.ppg)), lambda m, ppg: m.embed(ppg), data=(batch.ppg,))
    return recorder.stages


def training_stages(model: xMAE, batch: Batch) -> list[Stage]:
    """Forward and loss of a training step, stage by stage, then the whole; `flops` are the forward's."""
    cfg, (B, kept) = model.cfg, batch.ids_keep.shape
    recorder = _Recorder(model, B)
    visible = recorder.add(
        "visible patches",
        0,
        lambda m, ecg, ids: ops.gather_patches(ecg, ids, m.cfg.patch_len, impl=m.impl),
        data=(batch.ecg[:, None], batch.ids_keep),
    )
    ppg_tokens = recorder.encode("ppg", batch.ppg[:, None], cfg.depth_ppg)
    ecg_tokens = recorder.encode("ecg", visible, cfg.depth_ecg)
    x = recorder.add(
        "query assembly", 0, lambda m, x, ids: m.bridge_queries(x, ids), ecg_tokens, data=(batch.ids_keep,)
    )
    for i in range(cfg.depth_bridge):
        x = recorder.block(f"bridge block {i + 1}", lambda m, i=i: m.bridger.ecg2ppg[i], 4 * cfg.d_model, x, ppg_tokens)
    x = recorder.block("decoder block", lambda m: m.ecg_path.dec_blk, 2 * cfg.d_model, x)
    flops = recorder.flops("waveform_loss", N=cfg.num_patches, P=cfg.patch_len)
    data = (batch.ecg[:, None], batch.ids_keep, batch.ids_restore)
    recorder.add("waveform decode + loss", flops, _decode_and_loss, x, data=data)
    recorder.add(WHOLE, forward_flops(cfg, B, kept), lambda m, *data: our_loss(m)(Batch(*data))[0], data=tuple(batch))
    return recorder.stages


class _Recorder:
    """Runs stages one after the other and keeps each one's inputs."""

    def __init__(self, model: xMAE, B: int) -> None:
        self.model, self.B = model, B
        self.stages: list[Stage] = []

    def add(
        self, name: str, flops: int, run: Callable[..., Tensor], *inputs: Tensor, data: tuple[Tensor, ...] = ()
    ) -> Tensor:
        self.stages.append(Stage(name, run, inputs, data, flops))
        with torch.no_grad():
            return run(self.model, *inputs, *data)

    def flops(self, op: str, **sizes: int | str) -> int:
        return all_cases()[op].flops({"B": self.B, "D": self.model.cfg.d_model, "S": self.model.cfg.stem_ch} | sizes)

    def encode(self, name: str, signal: Tensor, depth: int) -> Tensor:
        """Stem, patch embedding and encoder of one modality: [B, 1, N * P] -> [B, N, D]."""
        cfg, L = self.model.cfg, signal.shape[-1]
        N = L // cfg.patch_len

        def path(m: xMAE) -> nn.Module:
            return getattr(m, f"{name}_path")

        def stem(m: xMAE, x: Tensor) -> Tensor:
            stem = path(m).stem
            return ops.conv_stem(x, stem.params(), training=stem.uses_batch_statistics(), impl=m.impl)

        def patch_embed(m: xMAE, x: Tensor) -> Tensor:
            proj = path(m).patcher.proj
            return ops.patch_embed(x, proj.weight, proj.bias, path(m).pos[:, :N], impl=m.impl)

        x = self.add(f"{name} stem", self.flops("conv_stem", L=L), stem, data=(signal,))
        x = self.add(f"{name} patch embedding", self.flops("patch_embed", N=N, P=cfg.patch_len), patch_embed, x)
        for i in range(depth):
            x = self.block(f"{name} block {i + 1}", lambda m, i=i: path(m).encoder.blocks[i], 4 * cfg.d_model, x)
        return x

    def block(self, name: str, block_of: Callable[[xMAE], nn.Module], hidden: int, x: Tensor, *kv: Tensor) -> Tensor:
        """Both sublayers of a self-attention block or, given `kv`, of a bridge block: [B, N, D] -> [B, N, D]."""
        N, keys = x.shape[1], kv[0].shape[1] if kv else "self"

        def attention(m: xMAE, x: Tensor, kv: Tensor | None = None) -> Tensor:
            block = block_of(m)
            own = getattr(block, "nq" if kv is not None else block.NORMS[0])
            params = attention_params(own, own if kv is None else block.nkv, block.attn)
            p, H = attention_dropout(block.attn), block.attn.num_heads
            return ops.lag_attention(x, kv, params, num_heads=H, dropout_p=p, impl=m.impl)

        def feed_forward(m: xMAE, x: Tensor) -> Tensor:
            block = block_of(m)
            norm, up, _, down, dropout = block.ffn if kv else (getattr(block, block.NORMS[1]), *block.mlp)
            params, p = feed_forward_params(norm, up, down), dropout_rate(dropout)
            return ops.feed_forward(x, params, dropout_p=p, impl=m.impl)

        x = self.add(f"{name} attention", self.flops("lag_attention", Nq=N, Nk=keys), attention, x, *kv)
        return self.add(f"{name} feed-forward", self.flops("feed_forward", N=N, F=hidden), feed_forward, x)


def _decode_and_loss(model: xMAE, tokens: Tensor, ecg: Tensor, ids_keep: Tensor, ids_restore: Tensor) -> Tensor:
    """Tokens [B, N, D], ecg [B, 1, L], ids_keep [B, Nk], ids_restore [B, N] -> the masked mean squared error."""
    deconv, kept = model.ecg_path.decoder.deconv, ids_keep.shape[1]
    prediction = ops.decode_waveform(tokens, deconv.weight, deconv.bias, impl=model.impl)
    mask = ops.masked_samples(ids_restore, kept, model.cfg.patch_len, impl=model.impl)
    return ops.masked_mse(prediction, ecg, mask, impl=model.impl)
