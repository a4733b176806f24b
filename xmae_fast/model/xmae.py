"""The drop-in xMAE model: checks its arguments, encodes the visible patches of each signal, and decodes the ECG."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from xmae_fast import ops
from xmae_fast.backend import check_choice
from xmae_fast.config import LagCfg, ModelCfg, cfg_from_dict
from xmae_fast.model import embedding_graphs
from xmae_fast.model.blocks import Bridger
from xmae_fast.model.frozen import Freezes
from xmae_fast.model.implementation import ChoosesImplementation
from xmae_fast.model.inputs import Inputs, check_signals, checked_ids, checked_signal
from xmae_fast.model.modes import evaluating
from xmae_fast.model.path import Encoding, SinglePath, encode_paths, identity_ids, truncated_normal, whole_numbers
from xmae_fast.model.storage.folders import Pretrained, load_pretrained
from xmae_fast.ops.token_gather import validate_ids

# `xmae_fast.Embedder`, for `embed` of whole recordings. It is built on models and imports this module, so this module
# cannot import it: the package's __init__, which has run before anybody can make a model, puts it here.
make_embedder: Callable[..., Any] | None = None


class xMAE(Freezes, ChoosesImplementation, Pretrained, nn.Module):
    """Cross-modal masked autoencoder of PPG and ECG (arXiv 2605.00973), same state-dict keys as the published one.

    Args:
        cfg: the configuration.
        impl: "auto", or the implementation that every operator must use ("reference", "cpu", "triton", "cuda"); for
            single operators then another choice, as in "auto, conv_stem=cuda".

    Raises:
        TypeError: `cfg` is no ModelCfg.
        ValueError: `impl` is unknown.
        BackendError: `impl` cannot serve this model here.
    """

    def __init__(self, cfg: ModelCfg, impl: str = "auto") -> None:
        super().__init__()
        if not isinstance(cfg, ModelCfg):
            raise TypeError(
                f"cfg: expected a ModelCfg (build_model_from_cfg takes dictionaries), got {type(cfg).__name__}"
            )
        self.cfg = cfg = replace(cfg)  # a checked copy: later changes to the caller's do not reach the model
        check_choice(impl)
        paths = {
            "seq_len": cfg.seq_len, "patch_len": cfg.patch_len, "d_model": cfg.d_model, "nhead": cfg.nhead,
            "stem_ch": cfg.stem_ch, "dropout": cfg.dropout, "proj_dim": cfg.proj_dim,
        }  # fmt: skip
        # One seed makes one model: parameters are drawn in the published order.
        self.ppg_path = SinglePath(depth=cfg.depth_ppg, **paths) if cfg.source != "ecg" else None
        self.ecg_path = SinglePath(depth=cfg.depth_ecg, **paths) if cfg.source != "ppg" else None
        self.bridger = None
        if cfg.use_cross_bridge and cfg.source == "ppg+ecg":
            self.bridger = Bridger(
                cfg.d_model, cfg.nhead, cfg.depth_bridge, cfg.dropout, lag=LagCfg.parse(cfg.lag),
                num_patches=cfg.num_patches, patch_seconds=cfg.patch_seconds,
            )  # fmt: skip
        self.mask_token = truncated_normal(1, 1, cfg.d_model)
        self.impl = impl

    @classmethod
    def from_pretrained(cls, path_or_hub_id: str | os.PathLike[str], **options: Any) -> xMAE:
        """See `xmae_fast.from_pretrained`."""
        return load_pretrained(xMAE, path_or_hub_id, **options)

    @property
    def source(self) -> str:
        return self.cfg.source

    @property
    def n_patches(self) -> int:
        """N = L / P."""
        return self.cfg.num_patches

    @property
    def patch_len(self) -> int:
        return self.cfg.patch_len

    @property
    def has_bridge(self) -> bool:
        return self.bridger is not None

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
                recipe. A signal that cfg.source leaves out is ignored; at least one must remain.
            ids_keep_ppg, ids_keep_ecg: [B, Nk] of an integer type, the visible patches; None, or without ids_restore:
                all patches are visible.
            ids_restore_ppg, ids_restore_ecg: [B, N], inverse of the permutation [kept..., masked...].
            return_embeddings, return_recon: override cfg's.
            return_loss: also `loss`, a scalar: `masked_mse` of the reconstruction, by one operator that need not write
                it; embedding and reconstruction are then left out unless asked for by name.

        Returns:
            A dictionary with what can be computed and is asked for: `ppg_embedding` [B, proj_dim] (its projection gets
            no gradient from pretraining; there is none where no PPG patch is visible), `ecg_reconstructed` [B, 1, L],
            `seq_mask_used_ecg` [B, 1, L] float32, 1 on masked samples.

        Raises:
            ValueError, TypeError: naming the argument.
            BackendError: `impl` names kernels that cannot compute this model.
        """
        self.refuse_foreign_parts()
        wants = return_embeddings, return_recon, return_loss
        inputs = self._check(ppg, ecg, ids_keep_ppg, ids_restore_ppg, ids_keep_ecg, ids_restore_ecg, *wants)
        ppg_tokens, ecg_tokens = self._encode(inputs)
        result: dict[str, Tensor] = {}
        if inputs.embedding and ppg_tokens is not None and ppg_tokens.shape[1]:
            path = self.ppg_path
            assert path is not None  # it has made the tokens
            result["ppg_embedding"] = path.embedding(ppg_tokens)
        if ecg_tokens is not None:
            result |= self._decode(inputs, ppg_tokens, ecg_tokens)
        return result

    def _check(
        self,
        ppg: Tensor | None,
        ecg: Tensor | None,
        ids_keep_ppg: Tensor | None,
        ids_restore_ppg: Tensor | None,
        ids_keep_ecg: Tensor | None,
        ids_restore_ecg: Tensor | None,
        return_embeddings: bool | None,
        return_recon: bool | None,
        return_loss: bool,
    ) -> Inputs:
        """The arguments of `forward`, checked; signals that nothing needs are None in the result."""
        embedding = (self.cfg.return_embeddings and not return_loss) if return_embeddings is None else return_embeddings
        recon = (self.cfg.return_recon and not return_loss) if return_recon is None else return_recon
        ppg, ecg = self.as_signal("ppg", ppg), self.as_signal("ecg", ecg)
        check_signals(ppg, ecg, self.cfg.source, return_loss)
        N = self.cfg.num_patches
        keep_ppg, _ = checked_ids("_ppg", ppg, ids_keep_ppg, ids_restore_ppg, N)
        keep_ecg, restore_ecg = checked_ids("_ecg", ecg, ids_keep_ecg, ids_restore_ecg, N)
        if not (recon or return_loss):
            ecg = None
        if not (embedding or (ecg is not None and self.has_bridge)):
            ppg = None
        return Inputs(ppg, ecg, keep_ppg, keep_ecg, restore_ecg, embedding, recon, return_loss)

    def _encode(self, inputs: Inputs) -> tuple[Tensor | None, Tensor | None]:
        """Tokens of the visible patches of PPG and of ECG, [B, Nk, D] each; None for a signal that is None."""
        ppg = _encoding(self.ppg_path, inputs.ppg, inputs.keep_ppg)
        ecg = _encoding(self.ecg_path, inputs.ecg, inputs.keep_ecg)
        if ppg is not None and ecg is not None:
            of_ppg, of_ecg = encode_paths(ppg, ecg)
            return of_ppg, of_ecg
        return None if ppg is None else encode_paths(ppg)[0], None if ecg is None else encode_paths(ecg)[0]

    def _decode(self, inputs: Inputs, ppg_tokens: Tensor | None, ecg_tokens: Tensor) -> dict[str, Tensor]:
        """Those of `loss`, `ecg_reconstructed` and `seq_mask_used_ecg` that are asked for, from tokens [B, Nk, D]."""
        path, ecg, restore = self.ecg_path, inputs.ecg, inputs.restore_ecg
        assert path is not None  # it has made the tokens of the ECG
        assert ecg is not None
        mask = self._sample_mask(ecg, inputs.keep_ecg, restore)
        tokens = self._bridged(ppg_tokens, inputs.keep_ppg, ecg_tokens, inputs.keep_ecg)
        result: dict[str, Tensor] = {}
        if path.overrides("decode_full_wave"):
            waveform = path.decode_full_wave(tokens, restore, self.mask_token)
            if inputs.loss:
                result["loss"] = ops.masked_mse(waveform, ecg, mask, impl=self.impl)
            if inputs.recon:
                result["ecg_reconstructed"] = waveform
        else:
            decoded = path.decoded(tokens, restore, self.mask_token)
            if inputs.loss:
                result["loss"] = path.loss(decoded, ecg, mask)
            if inputs.recon:
                result["ecg_reconstructed"] = path.waveform(decoded)
        if inputs.recon:
            result["seq_mask_used_ecg"] = mask
        return result

    @torch.no_grad()
    def embed(self, ppg: Tensor, fs: float | None = None, **options: Any) -> Tensor:
        """Embeddings for inference: `ppg_embedding` with evaluation statistics, whatever the model's mode.

        On a GPU a batch size (rounded up to one of `embedding_graphs.BUCKETS`) that has been used three times becomes a
        CUDA graph.

        Args:
            ppg: [B, L] or [B, 1, L], prepared: min-max scaled to [-1, 1] per segment.
            fs: Hz of a recording of any length, which is prepared first: `Embedder(self, **options)(ppg, fs)`, by
                default pooled tokens.

        Returns:
            [B, proj_dim], without gradient; nothing else is computed, no state changes. With `fs` an `Embeddings`.

        Raises:
            ValueError: source="ecg" has no PPG encoder, or the shape is wrong.
            TypeError: dtype or device.
            BackendError: `impl` names kernels that cannot compute this model.
        """
        if fs is not None or options:
            assert make_embedder is not None  # the package's __init__ has put it there
            return make_embedder(self, **options)(ppg, fs)
        if self.cfg.source == "ecg":
            raise ValueError("embed: expected a model with a PPG encoder, got source='ecg'")
        self.refuse_foreign_parts()
        signal = self.as_signal("ppg", ppg)
        assert signal is not None  # the source has PPG
        if embedding_graphs.usable(self, signal):
            return embedding_graphs.embed(self, signal, self._embed)
        return self._embed(signal)

    def _embed(self, signal: Tensor) -> Tensor:
        path = self.ppg_path
        assert path is not None  # the source has PPG
        tokens = path.encode(signal, inference=True)
        if not any(module.training for module in path.proj.modules()):
            return path.embedding(tokens)
        with evaluating(path.proj):
            return path.embedding(tokens)

    def _bridged(
        self, ppg_tokens: Tensor | None, keep_ppg: Tensor | None, ecg_tokens: Tensor, keep_ecg: Tensor | None
    ) -> Tensor:
        """Tokens of the ECG after the bridge, [B, Nk, D] each -> [B, N, D]; as they are without bridge or PPG."""
        bridger = self.bridger
        if bridger is None or ppg_tokens is None:
            return ecg_tokens
        queries = self.bridge_queries(ecg_tokens, keep_ecg)
        key_pos = {"key_pos": keep_ppg} if self.cfg.lag is not None and isinstance(bridger, Bridger) else {}
        return bridger(ppg_tokens, ecg_tokens, q_ecg_override=queries, **key_pos)[1]

    def bridge_queries(self, ecg_tokens: Tensor, ids_keep_ecg: Tensor | None) -> Tensor:
        """Encoder tokens [B, Nk, D] -> queries of the bridge [B, N, D]."""
        if ids_keep_ecg is None:
            ids_keep_ecg, _ = self._identity_ids(ecg_tokens.shape[0], ecg_tokens.device)
        path = self.ecg_path
        assert path is not None  # it has made the tokens
        return path.make_query_tokens_from_pre_encoded(ecg_tokens, ids_keep_ecg)

    def _sample_mask(self, ecg: Tensor, ids_keep: Tensor | None, ids_restore: Tensor | None) -> Tensor:
        """1 on masked samples, 0 elsewhere: [B, 1, L], float32 whatever the model's dtype, so that its sum is right."""
        if ids_keep is None or ids_restore is None:  # both or none, see `checked_ids`
            return torch.zeros_like(ecg, dtype=torch.float32)
        kept, P, path = ids_keep.shape[1], self.cfg.patch_len, self.ecg_path
        if path is not None and path.overrides("seqmask_from_ids_restore"):
            return path.seqmask_from_ids_restore(ids_restore, kept, P)
        return ops.masked_samples(ids_restore, kept, P, impl=self.impl)

    def _identity_ids(self, B: int, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
        """ids_keep and ids_restore that hide nothing: [B, N] each."""
        return identity_ids(B, self.n_patches, device)

    _ensure_B1L = staticmethod(SinglePath._ensure_B1L)

    def as_signal(self, name: str, signal: Tensor | None) -> Tensor | None:
        """`signal` [B, L] or [B, 1, L], checked, as [B, 1, L]; None where it is missing or the source leaves it out."""
        return checked_signal(name, signal, self.cfg, self.mask_token)

    def kept_ids(self, suffix: str, signal: Tensor, keep: Tensor | None) -> Tensor | None:
        """ids_keep [B, Nk] of one signal [B, 1, L] as int64, checked against it; None: all patches are visible."""
        if keep is not None:
            keep = whole_numbers(keep)
            validate_ids(suffix, keep, None, signal.shape[0], self.cfg.num_patches, signal.device)
        return keep


def _encoding(path: SinglePath | None, signal: Tensor | None, keep: Tensor | None) -> Encoding | None:
    """What `encode_paths` takes for a signal; None without one."""
    if signal is None:
        return None
    assert path is not None  # a source that uses the signal has its path
    return path, signal, keep


def build_model_from_cfg(cfg: Mapping[str, Any], impl: str = "auto") -> xMAE:
    """xMAE from the published dictionary (YAML) form of its configuration; see `xmae_fast.config.cfg_from_dict`."""
    return xMAE(cfg_from_dict(cfg), impl=impl)
