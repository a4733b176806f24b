"""An xMAE as an encoder of ppg-bench (PyPI), which loads it by its name; nothing of that package is needed here.

name: xMAE
port: xmae_fast.embedding.ppg_bench:XmaePort
fs: 125                    # of the windows that the benchmark makes; any rate above 16 Hz
embedding_dim: 256         # d_model for pooled, proj_dim for projected
init: {model: xmae-sim-base, output: pooled}       # or {ckpt_path: ../mine}, from the folder of this file
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from xmae_fast.embedding.preprocess import prepare_ppg
from xmae_fast.model.outputs import output_shape
from xmae_fast.model.path import SinglePath
from xmae_fast.model.pretrained import from_pretrained, recipe_of
from xmae_fast.model.xmae import xMAE

_KEYS = ("ckpt_path", "model", "target_fs", "output", "impl")


class XmaePort:
    """What ppg-bench asks of an encoder.

    Windows that are longer than the model's are cut into several, and their embeddings are averaged. Of shorter windows
    the whole patches are taken, which are fewer than the PPG encoder saw in pretraining.

    Args:
        model_init_cfg: `init` of the YAML: "ckpt_path", a folder or file that `from_pretrained` takes, or else "model",
            a name that it takes (the benchmark makes a path of whatever stands under "ckpt_path"); "target_fs" in Hz,
            which the benchmark adds; "output", "pooled" (the default) or "projected"; "impl", as for xMAE.

    Raises:
        ValueError: a key is missing or unknown, or its value is wrong.
    """

    def __init__(self, model_init_cfg: Mapping[str, Any]) -> None:
        if unknown := sorted(set(model_init_cfg) - set(_KEYS)):
            raise ValueError(f"init.{unknown[0]}: expected one of {', '.join(_KEYS)}")
        if "target_fs" not in model_init_cfg:
            raise ValueError(f"init.target_fs: expected the rate in Hz, got {sorted(model_init_cfg)}")
        if ("ckpt_path" in model_init_cfg) == ("model" in model_init_cfg):
            raise ValueError(f"init.ckpt_path: expected it or init.model in the YAML, got {sorted(model_init_cfg)}")
        self.path = model_init_cfg["ckpt_path"] if "ckpt_path" in model_init_cfg else model_init_cfg["model"]
        self.fs = float(model_init_cfg["target_fs"])
        self.output, self.impl = model_init_cfg.get("output", "pooled"), model_init_cfg.get("impl", "auto")
        if self.output not in ("pooled", "projected"):
            raise ValueError(f"init.output: expected 'pooled' or 'projected', got {self.output!r}")
        model = self._load()
        self.recipe, self.patch_s = recipe_of(model), model.cfg.patch_seconds

    def load_encoder(self) -> nn.Module:
        """A new encoder, which maps prepared windows [B, K, n] to embeddings [B, D], with gradient."""
        return XmaeEncoder(self._load(), self.output)

    def prepare_batch(self, batch: Mapping[str, Any], model_cfg: Mapping[str, Any], device: Any) -> Tensor:
        """Cut a batch into windows and prepare them by the recipe of the model.

        Args:
            batch: "x" [B, T], at the rate of the YAML.
            model_cfg: not used.
            device: where the windows go.

        Returns:
            [B, K, n].

        Raises:
            ValueError: a row is shorter than a patch.
        """
        x = np.asarray(torch.as_tensor(batch["x"]).detach().cpu(), np.float64).reshape(len(batch["x"]), -1)
        seconds, whole = x.shape[1] / self.fs, self.recipe.segment_s
        windows = int(seconds / whole + 1e-6)
        if not windows:
            patches = int(seconds / self.patch_s + 1e-6)
            if not patches:
                raise ValueError(f"x: expected at least a patch of {self.patch_s:g} s, got {seconds:g} s")
            windows, whole = 1, patches * self.patch_s
        recipe = replace(self.recipe, segment_s=whole)
        samples = round(whole * self.fs)
        starts = np.minimum(np.rint(np.arange(windows) * whole * self.fs).astype(np.int64), x.shape[1] - samples)
        cut = np.stack([x[:, start : start + samples] for start in starts], 1)
        ppg = prepare_ppg(cut.reshape(-1, samples), self.fs, recipe, quality=False).ppg
        return torch.from_numpy(ppg.reshape(len(x), windows, -1)).to(device)

    def _load(self) -> xMAE:
        return from_pretrained(self.path, impl=self.impl)


class XmaeEncoder(nn.Module):
    """Maps [B, K, n] to [B, D], the mean over K windows of n samples; n is a multiple of the patch length."""

    def __init__(self, model: xMAE, output: str) -> None:
        super().__init__()
        output_shape(model, output)
        self.path, self.output = cast(SinglePath, model.ppg_path), output  # output_shape has checked that there is one

    def forward(self, x: Tensor) -> Tensor:
        """Prepared windows [B, K, n] to embeddings [B, D]: the mean over the K windows of each sample."""
        tokens = self.path.encode(x.reshape(-1, 1, x.shape[-1]))
        features = tokens.mean(1) if self.output == "pooled" else self.path.embedding(tokens)
        return features.reshape(*x.shape[:2], -1).mean(1)
