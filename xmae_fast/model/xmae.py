"""The drop-in xMAE model, composed of operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from xmae_fast import backend, ops
from xmae_fast.config import ModelCfg, cfg_from_dict
from xmae_fast.model import embedding_graphs
from xmae_fast.model.lag import LagBias
from xmae_fast.model.layers import CrossBlock, truncated_normal
from xmae_fast.model.packed import FreesPackedWeights
from xmae_fast.model.path import ModalityPath
from xmae_fast.model.pretrained import Pretrained
from xmae_fast.ops._checks import check_like
from xmae_fast.ops.token_gather import validate_ids


class Bridge(nn.Module):
    """Cross-attention between the modalities. `ppg2ecg` is part of the published state dict and never runs."""

    def __init__(self, cfg: ModelCfg) -> None:
        super().__init__()
        self.ecg2ppg = nn.ModuleList(
            CrossBlock(cfg, LagBias(cfg) if cfg.lag is not None else None) for _ in range(cfg.depth_bridge)
        )
        self.ppg2ecg = nn.ModuleList(CrossBlock(cfg, None) for _ in range(cfg.depth_bridge))


class xMAE(FreesPackedWeights, Pretrained, nn.Module):
    """Cross-modal masked autoencoder of PPG and ECG (arXiv 2605.00973), same state-dict keys as the published one.

    Args:
        cfg: the configuration.
        impl: "auto", or the implementation that every operator must use ("reference", "cpu", "triton", "cuda"); for
            single operators then another choice, as in "auto, conv_stem=cuda".

    Raises:
        ValueError: unknown `impl`. BackendError: `impl` cannot serve this model here.
    """

    def __init__(self, cfg: ModelCfg, impl: str = "auto") -> None:
        super().__init__()
        if not isinstance(cfg, ModelCfg):
            raise TypeError(
                f"cfg: expected a ModelCfg (build_model_from_cfg takes dictionaries), got {type(cfg).__name__}"
            )
        self.cfg = cfg = replace(cfg)  # a copy, checked anew: later changes to the caller's do not reach the model
        self.impl = impl
        self.has_bridge = cfg.use_cross_bridge and cfg.source == "ppg+ecg"
        self.mask_token = truncated_normal(1, 1, cfg.d_model)
        if cfg.source != "ecg":
            self.ppg_path = ModalityPath(cfg, cfg.depth_ppg)
        if cfg.source != "ppg":
            self.ecg_path = ModalityPath(cfg, cfg.depth_ecg)
        if self.has_bridge:
            self.bridger = Bridge(cfg)

    @property
    def impl(self) -> str:
        """Which implementation the operators use; setting it checks that they can."""
        return self._impl

    @impl.setter
    def impl(self, value: str) -> None:
        for op in backend.MODEL_OPS:
            backend.check_usable(op, value)
        self._impl = value

    def forward(
        self,
        ppg: Tensor | None = None,
        ecg: Tensor | None = None,
        *,
        ids_keep_ppg: Tensor | None = None,
        ids_restore_ppg: Tensor | None = None,
        ids_keep_ecg: Tensor | None = None,
        ids_restore_ecg: Tensor | None = None,
        return_embeddings: bool | None = None,
        return_recon: bool | None = None,
        return_loss: bool = False,
    ) -> dict[str, Tensor]:
        """Embed PPG and reconstruct ECG.

        Args:
            ppg, ecg: [B, L] or [B, 1, L], L = cfg.seq_len; min-max normalised to [-1, 1] per segment in the published
                recipe. A modality that cfg.source leaves out is ignored; at least one must remain.
            ids_keep_*: [B, Nk] int64, visible patches; None: all.
            ids_restore_*: [B, N] int64, inverse of the permutation [kept..., masked...].
            return_embeddings, return_recon: override cfg's.
            return_loss: also `loss`, a scalar: `masked_mse` of the reconstruction, by one operator that need not write
                it; embedding and reconstruction are then left out unless asked for by name.

        Returns:
            A dictionary with what can be computed and is asked for: `ppg_embedding` [B, proj_dim] (its projection gets
            no gradient from pretraining; NaN where no PPG patch is visible), `ecg_reconstructed` [B, 1, L],
            `seq_mask_used_ecg` [B, 1, L], 1 on masked samples.

        Raises:
            ValueError, TypeError: naming the argument. BackendError: impl.
        """
        want_embedding, want_recon = return_embeddings, return_recon
        if want_embedding is None:
            want_embedding = self.cfg.return_embeddings and not return_loss
        if want_recon is None:
            want_recon = self.cfg.return_recon and not return_loss
        ppg = self.as_signal("ppg", ppg)
        ecg = self.as_signal("ecg", ecg)
        if ppg is None and ecg is None:
            raise ValueError(f"ppg, ecg: expected at least one signal that source={self.cfg.source!r} uses, got none")
        if ppg is not None and ecg is not None and ppg.shape[0] != ecg.shape[0]:
            raise ValueError(f"ecg: expected the batch size of ppg, {ppg.shape[0]}, got {ecg.shape[0]}")
        self.check_ids("_ppg", ppg, ids_keep_ppg, ids_restore_ppg)
        self.check_ids("_ecg", ecg, ids_keep_ecg, ids_restore_ecg)
        if ecg is not None and ids_keep_ecg is not None and ids_restore_ecg is None:
            raise ValueError("ids_restore_ecg: expected with ids_keep_ecg, got None")

        if return_loss and ecg is None:
            raise ValueError(f"return_loss: expected an ecg that source={self.cfg.source!r} uses, got none")

        result: dict[str, Tensor] = {}
        want_recon = want_recon and ecg is not None
        decoding = want_recon or return_loss
        bridged = self.has_bridge and ppg is not None and decoding
        with_ppg = ppg is not None and (want_embedding or bridged)
        if with_ppg and decoding:
            ppg_tokens, ecg_tokens = self._encode_both(ppg, ids_keep_ppg, ecg, ids_keep_ecg)
        elif with_ppg:
            ppg_tokens = self.ppg_path.encode(ppg, ids_keep_ppg, impl=self.impl)
        elif decoding:
            ecg_tokens = self.ecg_path.encode(ecg, ids_keep_ecg, impl=self.impl)
        if with_ppg and want_embedding:
            result["ppg_embedding"] = self.ppg_path.embedding(ppg_tokens)
        if decoding:
            if bridged:
                ecg_tokens = self.bridge_queries(ecg_tokens, ids_keep_ecg)
                for block in self.bridger.ecg2ppg:
                    ecg_tokens = block(ecg_tokens, ppg_tokens, ids_keep_ppg, impl=self.impl)
            decoded = self._decoder_tokens(ecg_tokens, ids_restore_ecg)
            mask = self._sample_mask(ecg, ids_keep_ecg, ids_restore_ecg)
            deconv = self.ecg_path.decoder.deconv
            if return_loss:
                result["loss"] = ops.waveform_loss(decoded, deconv.weight, deconv.bias, ecg, mask, impl=self.impl)
            if want_recon:
                result["ecg_reconstructed"] = ops.decode_waveform(decoded, deconv.weight, deconv.bias, impl=self.impl)
                result["seq_mask_used_ecg"] = mask
        return result

    @torch.no_grad()
    def embed(self, ppg: Tensor, fs: float | None = None, **options: Any) -> Tensor:
        """Embeddings for inference: `ppg_embedding` with evaluation statistics, whatever the model's mode.

        Args:
            ppg: [B, L] or [B, 1, L], prepared: min-max scaled to [-1, 1] per segment.
            fs: Hz of a recording of any length, which is prepared first: `Embedder(self, **options)(ppg, fs)`, by
                default pooled tokens.

        Returns:
            [B, proj_dim], without gradient; nothing else is computed, no state changes. On a GPU a batch size (rounded
            up to one of `embedding_graphs.BUCKETS`) that has been used three times becomes a CUDA graph. With `fs`
            an `Embeddings`.

        Raises:
            ValueError: source="ecg" has no PPG encoder, or the shape is wrong. TypeError: dtype or device.
        """
        if fs is not None or options:
            from xmae_fast.embedding import Embedder

            return Embedder(self, **options)(ppg, fs)
        if self.cfg.source == "ecg":
            raise ValueError("embed: expected a model with a PPG encoder, got source='ecg'")
        signal = self.as_signal("ppg", ppg)
        if embedding_graphs.usable(self, signal):
            return embedding_graphs.embed(self, signal, self._embed)
        return self._embed(signal)

    def _embed(self, signal: Tensor) -> Tensor:
        return self.ppg_path.embedding(self.ppg_path.encode(signal, None, inference=True, impl=self.impl))

    def _encode_both(
        self, ppg: Tensor, ids_keep_ppg: Tensor | None, ecg: Tensor, ids_keep_ecg: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Tokens of both modalities, as by `ModalityPath.encode`; their stems may share launches."""
        paths = self.ppg_path, self.ecg_path
        signals = (
            self.ppg_path.visible(ppg, ids_keep_ppg, self.impl), self.ecg_path.visible(ecg, ids_keep_ecg, self.impl)
        )  # fmt: skip
        modes = [path.stem.uses_batch_statistics() for path in paths]
        share = modes[0] == modes[1] and all(path.stem_may_share for path in paths)
        if share and all(signal.shape[-1] for signal in signals):
            params = tuple(path.stem.params() for path in paths)
            features = ops.conv_stems(signals, params, training=modes[0], impl=self.impl)
        else:
            features = tuple(path.features(x, False, self.impl) for path, x in zip(paths, signals, strict=True))
        tokens = (path.tokens(x, inference=False, impl=self.impl) for path, x in zip(paths, features, strict=True))
        return tuple(tokens)

    def bridge_queries(self, ecg_tokens: Tensor, ids_keep_ecg: Tensor | None) -> Tensor:
        """Encoder tokens [B, Nk, D] -> queries of the bridge [B, N, D]."""
        if ids_keep_ecg is None:
            ids_keep_ecg = torch.arange(self.cfg.num_patches, device=ecg_tokens.device).expand(ecg_tokens.shape[0], -1)
        path = self.ecg_path
        return ops.assemble_queries(ecg_tokens, ids_keep_ecg, path.pos, path.mask_loc_table.weight, impl=self.impl)

    def _decoder_tokens(self, tokens: Tensor, ids_restore: Tensor | None) -> Tensor:
        """All N tokens of the ECG behind the decoder block: tokens [B, Nk or N, D] -> [B, N, D]."""
        path = self.ecg_path
        if tokens.shape[1] < self.cfg.num_patches:
            tokens = ops.restore_tokens(tokens, ids_restore, self.mask_token, path.pos, impl=self.impl)
        return path.dec_blk(tokens, impl=self.impl)

    def _sample_mask(self, ecg: Tensor, ids_keep: Tensor | None, ids_restore: Tensor | None) -> Tensor:
        if ids_keep is None:
            return torch.zeros_like(ecg)
        return ops.masked_samples(ids_restore, ids_keep.shape[1], self.cfg.patch_len, ecg.dtype, impl=self.impl)

    def as_signal(self, name: str, signal: Tensor | None) -> Tensor | None:
        """`signal` [B, L] or [B, 1, L], checked, as [B, 1, L]; None where it is missing or the source leaves it out."""
        if signal is None or name not in self.cfg.source:
            return None
        if not isinstance(signal, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(signal).__name__}")
        L = self.cfg.seq_len
        if signal.dim() == 2 and signal.shape[1] == L:
            signal = signal[:, None]
        if signal.dim() != 3 or signal.shape[1:] != (1, L):
            raise ValueError(f"{name}: expected shape [B, {L}] or [B, 1, {L}], got {list(signal.shape)}")
        check_like(name, signal, "the model", self.mask_token)
        return signal

    def check_ids(self, suffix: str, signal: Tensor | None, keep: Tensor | None, restore: Tensor | None) -> None:
        """Raise unless the ids of one modality fit its signal; see `ops.token_gather.validate_ids`."""
        if signal is None or (keep is None and restore is None):
            return
        if keep is None:
            raise ValueError(f"ids_keep{suffix}: expected with ids_restore{suffix}, got None")
        validate_ids(suffix, keep, restore, signal.shape[0], self.cfg.num_patches, signal.device)


def build_model_from_cfg(cfg: Mapping[str, Any], impl: str = "auto") -> xMAE:
    """xMAE from the published dictionary (YAML) form of its configuration; see `xmae_fast.config.cfg_from_dict`."""
    return xMAE(cfg_from_dict(cfg), impl=impl)
