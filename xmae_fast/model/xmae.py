"""The drop-in xMAE model, composed of operators."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from xmae_fast import backend, ops
from xmae_fast.backend import check_choice, choice_of
from xmae_fast.config import ModelCfg, cfg_from_dict
from xmae_fast.model import embedding_graphs
from xmae_fast.model.blocks import Bridger
from xmae_fast.model.calls import own_forward
from xmae_fast.model.modes import evaluating
from xmae_fast.model.packed import FreesPackedWeights
from xmae_fast.model.path import SinglePath, identity_ids, truncated_normal, whole_numbers
from xmae_fast.model.standard import Accelerated
from xmae_fast.model.storage.folders import Pretrained, load_pretrained
from xmae_fast.ops._checks import check_like
from xmae_fast.ops.token_gather import validate_ids

# `xmae_fast.Embedder`, which is built on models and therefore imports this module: the package's __init__ puts it here.
make_embedder: Callable[..., Any] | None = None


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
                cfg.d_model, cfg.nhead, cfg.depth_bridge, cfg.dropout, lag=cfg.lag, num_patches=cfg.num_patches,
                patch_seconds=cfg.patch_seconds,
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

    @property
    def impl(self) -> str:
        """Which implementation the operators use; setting it checks that they can, and tells every part."""
        return self._impl

    @impl.setter
    def impl(self, value: str) -> None:
        for op in backend.MODEL_OPS:
            backend.check_usable(op, value)
        self._impl = value
        for name, part in self.named_modules():
            if isinstance(part, Accelerated):
                part.impl, part.where = value, name

    def irregular(self) -> Iterator[tuple[str, str]]:
        """(operator, '<module>: <reason>') of each module because of which a span of modules runs itself."""
        yield from ((", ".join(operators), fault) for operators, fault in self._foreign_parts())
        for name, part in self.named_modules():
            if isinstance(part, Accelerated) and not name.startswith("bridger.ppg2ecg"):  # these never run
                yield from ((op, part.named(fault)) for op, fault in part.faults())

    def _foreign_parts(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """(operators, '<name>: <reason>') of each part of another class, which runs as it is."""
        for name, kind in (("ppg_path", SinglePath), ("ecg_path", SinglePath), ("bridger", Bridger)):
            part = getattr(self, name)
            if isinstance(part, kind):
                decodes = {"decodes": name == "ecg_path"} if kind is SinglePath else {}
                yield from part.foreign_parts(**decodes)
            if part is not None and (why := own_forward(part, kind)):
                yield backend.MODEL_OPS, f"{name}: {why}"

    def refuse_foreign_parts(self) -> None:
        """BackendError where kernels were asked for by name and another part stands in their place.

        Parts that were put in since `impl` was set are told of it.
        """
        if self._impl == "auto":
            return
        for name in ("ppg_path", "ecg_path", "bridger"):
            part = getattr(self, name)
            blocks = getattr(getattr(part, "encoder", None), "blocks", ()) or getattr(part, "ecg2ppg", ())
            for each in (part, getattr(part, "stem", None), getattr(part, "dec_blk", None), *blocks):
                if isinstance(each, Accelerated) and each.impl != self._impl:
                    self.impl = self._impl
        if self._impl == "reference":
            return
        for operators, fault in self._foreign_parts():
            for op in operators:
                if (choice := choice_of(self._impl, op)) not in ("auto", "reference"):
                    raise backend.BackendError(
                        f"impl={choice!r} was asked for {op}, but {fault}; impl='auto' runs it as it is"
                    )

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
            ids_keep_*: [B, Nk] of an integer type, visible patches; None, or without ids_restore: all.
            ids_restore_*: [B, N], inverse of the permutation [kept..., masked...].
            return_embeddings, return_recon: override cfg's.
            return_loss: also `loss`, a scalar: `masked_mse` of the reconstruction, by one operator that need not write
                it; embedding and reconstruction are then left out unless asked for by name.

        Returns:
            A dictionary with what can be computed and is asked for: `ppg_embedding` [B, proj_dim] (its projection gets
            no gradient from pretraining; there is none where no PPG patch is visible), `ecg_reconstructed` [B, 1, L],
            `seq_mask_used_ecg` [B, 1, L] float32, 1 on masked samples.

        Raises:
            ValueError, TypeError: naming the argument. BackendError: impl.
        """
        self.refuse_foreign_parts()
        want_embedding, want_recon = return_embeddings, return_recon
        if want_embedding is None:
            want_embedding = self.cfg.return_embeddings and not return_loss
        if want_recon is None:
            want_recon = self.cfg.return_recon and not return_loss
        ppg, ecg = self.as_signal("ppg", ppg), self.as_signal("ecg", ecg)
        if ppg is None and ecg is None:
            raise ValueError(f"ppg, ecg: expected at least one signal that source={self.cfg.source!r} uses, got none")
        if ppg is not None and ecg is not None and ppg.shape[0] != ecg.shape[0]:
            raise ValueError(f"ecg: expected the batch size of ppg, {ppg.shape[0]}, got {ecg.shape[0]}")
        if return_loss and ecg is None:
            raise ValueError(f"return_loss: expected an ecg that source={self.cfg.source!r} uses, got none")
        keep_ppg, _ = self._ids("_ppg", ppg, ids_keep_ppg, ids_restore_ppg)
        keep_ecg, restore_ecg = self._ids("_ecg", ecg, ids_keep_ecg, ids_restore_ecg)

        decoding = ecg is not None and (want_recon or return_loss)
        with_ppg = ppg is not None and (want_embedding or (decoding and self.has_bridge))
        ppg_tokens, ecg_tokens = self._encode(
            ppg if with_ppg else None, keep_ppg, ecg if decoding else None, keep_ecg
        )
        result: dict[str, Tensor] = {}
        if want_embedding and ppg_tokens is not None and ppg_tokens.shape[1]:
            result["ppg_embedding"] = self.ppg_path.embedding(ppg_tokens)
        if decoding:
            path, mask = self.ecg_path, self._sample_mask(ecg, keep_ecg, restore_ecg)
            ecg_tokens = self._bridged(ppg_tokens, keep_ppg, ecg_tokens, keep_ecg)
            if path.overrides("decode_full_wave"):
                waveform = path.decode_full_wave(ecg_tokens, restore_ecg, self.mask_token)
                loss = ops.masked_mse(waveform, ecg, mask, impl=self.impl) if return_loss else None
            else:
                decoded = path.decoded(ecg_tokens, restore_ecg, self.mask_token)
                loss = path.loss(decoded, ecg, mask) if return_loss else None
                waveform = path.waveform(decoded) if want_recon else None
            if return_loss:
                result["loss"] = loss
            if want_recon:
                result["ecg_reconstructed"], result["seq_mask_used_ecg"] = waveform, mask
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
            return make_embedder(self, **options)(ppg, fs)
        if self.cfg.source == "ecg":
            raise ValueError("embed: expected a model with a PPG encoder, got source='ecg'")
        self.refuse_foreign_parts()
        signal = self.as_signal("ppg", ppg)
        if embedding_graphs.usable(self, signal):
            return embedding_graphs.embed(self, signal, self._embed)
        return self._embed(signal)

    def _embed(self, signal: Tensor) -> Tensor:
        path = self.ppg_path
        tokens = path.encode(signal, inference=True)
        if not any(module.training for module in path.proj.modules()):
            return path.embedding(tokens)
        with evaluating(path.proj):
            return path.embedding(tokens)

    def _encode(
        self, ppg: Tensor | None, keep_ppg: Tensor | None, ecg: Tensor | None, keep_ecg: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Tokens of the visible patches, signals [B, 1, L] -> [B, Nk, D] each; None for a signal that is None."""
        if ppg is None or ecg is None:
            return (
                None if ppg is None else self.ppg_path.visible_tokens_from_wave(ppg, keep_ppg),
                None if ecg is None else self.ecg_path.visible_tokens_from_wave(ecg, keep_ecg),
            )
        if not self._stems_join(ppg, keep_ppg, ecg, keep_ecg):
            return (
                self.ppg_path.visible_tokens_from_wave(ppg, keep_ppg),
                self.ecg_path.visible_tokens_from_wave(ecg, keep_ecg),
            )
        paths = self.ppg_path, self.ecg_path
        seen = [path.visible(x, keep) for path, x, keep in zip(paths, (ppg, ecg), (keep_ppg, keep_ecg), strict=True)]
        params = tuple(path.stem.params() for path in paths)
        features = ops.conv_stems(seen, params, training=paths[0].stem.uses_batch_statistics(), impl=self.impl)
        return tuple(path.tokens(x) for path, x in zip(paths, features, strict=True))

    def _stems_join(self, ppg: Tensor, keep_ppg: Tensor | None, ecg: Tensor, keep_ecg: Tensor | None) -> bool:
        """Whether both stems may be handed to one operator: its kernels on a GPU train them in one set of launches."""
        paths = self.ppg_path, self.ecg_path
        chosen = backend.resolve("conv_stem", self.impl, ppg.device, ppg.dtype)
        hidden = any(keep is not None and keep.shape[1] == 0 for keep in (keep_ppg, keep_ecg))
        if chosen in ("reference", "cpu") or hidden:
            return False
        alike = paths[0].stem.uses_batch_statistics() == paths[1].stem.uses_batch_statistics()
        return alike and all(path.stem_joins() for path in paths)

    def _bridged(
        self, ppg_tokens: Tensor | None, keep_ppg: Tensor | None, ecg_tokens: Tensor, keep_ecg: Tensor | None
    ) -> Tensor:
        """Tokens of the ECG after the bridge, [B, Nk, D] each -> [B, N, D]; as they are without bridge or PPG."""
        if not self.has_bridge or ppg_tokens is None:
            return ecg_tokens
        queries = self.bridge_queries(ecg_tokens, keep_ecg)
        key_pos = {"key_pos": keep_ppg} if self.cfg.lag is not None and isinstance(self.bridger, Bridger) else {}
        return self.bridger(ppg_tokens, ecg_tokens, q_ecg_override=queries, **key_pos)[1]

    def bridge_queries(self, ecg_tokens: Tensor, ids_keep_ecg: Tensor | None) -> Tensor:
        """Encoder tokens [B, Nk, D] -> queries of the bridge [B, N, D]."""
        if ids_keep_ecg is None:
            ids_keep_ecg, _ = self._identity_ids(ecg_tokens.shape[0], ecg_tokens.device)
        return self.ecg_path.make_query_tokens_from_pre_encoded(ecg_tokens, ids_keep_ecg)

    def _sample_mask(self, ecg: Tensor, ids_keep: Tensor | None, ids_restore: Tensor | None) -> Tensor:
        """1 on masked samples, 0 elsewhere: [B, 1, L], float32 whatever the model's dtype, so that its sum is right."""
        if ids_keep is None:
            return torch.zeros_like(ecg, dtype=torch.float32)
        kept, P = ids_keep.shape[1], self.cfg.patch_len
        if self.ecg_path.overrides("seqmask_from_ids_restore"):
            return self.ecg_path.seqmask_from_ids_restore(ids_restore, kept, P)
        return ops.masked_samples(ids_restore, kept, P, impl=self.impl)

    def _identity_ids(self, B: int, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
        """ids_keep and ids_restore that hide nothing: [B, N] each."""
        return identity_ids(B, self.n_patches, device)

    _ensure_B1L = staticmethod(SinglePath._ensure_B1L)

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

    def kept_ids(self, suffix: str, signal: Tensor, keep: Tensor | None) -> Tensor | None:
        """ids_keep of one modality as int64, checked against its signal; None: all patches."""
        if keep is not None:
            keep = whole_numbers(keep)
            validate_ids(suffix, keep, None, signal.shape[0], self.cfg.num_patches, signal.device)
        return keep

    def _ids(
        self, suffix: str, signal: Tensor | None, keep: Tensor | None, restore: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """The ids of one modality as int64, checked against its signal (see `validate_ids`); twice None where all
        patches are visible."""
        if signal is None or (keep is None and restore is None):
            return None, None
        if keep is None:
            raise ValueError(f"ids_keep{suffix}: expected with ids_restore{suffix}, got None")
        keep, restore = whole_numbers(keep), whole_numbers(restore)
        validate_ids(suffix, keep, restore, signal.shape[0], self.cfg.num_patches, signal.device)
        if restore is None:
            warnings.warn(
                f"ids_keep{suffix} without ids_restore{suffix} hides nothing, as published: all patches are visible",
                stacklevel=3,
            )
            return None, None
        return keep, restore


def build_model_from_cfg(cfg: Mapping[str, Any], impl: str = "auto") -> xMAE:
    """xMAE from the published dictionary (YAML) form of its configuration; see `xmae_fast.config.cfg_from_dict`."""
    return xMAE(cfg_from_dict(cfg), impl=impl)
