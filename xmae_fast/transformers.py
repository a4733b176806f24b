"""xMAE for `transformers`: importing this module registers `AutoConfig` and `AutoModel` of the model type "xmae".

    import xmae_fast.transformers
    from transformers import AutoModel

    model = AutoModel.from_pretrained("folder")   # of save_pretrained, this one's or xMAE's; or "owner/name"
    model(ppg).pooler_output                      # [B, D]

Nothing else of xmae_fast imports `transformers`. No code from a repository is run: `trust_remote_code` is not needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from xmae_fast._optional import need
from xmae_fast.config import LagCfg, ModelCfg
from xmae_fast.model.card import model_card
from xmae_fast.model.lag import LagBias
from xmae_fast.model.outputs import encode, output_shape
from xmae_fast.model.storage.configuration import MODEL_TYPE
from xmae_fast.model.storage.folders import PREPROCESSING, dtype_name, read_recipe, recipe_of, write_beside
from xmae_fast.model.xmae import xMAE

need("transformers", "xmae_fast.transformers needs", "transformers")

from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel  # noqa: E402
from transformers.utils.generic import ModelOutput  # noqa: E402
from transformers.utils.hub import cached_file  # noqa: E402

__all__ = ["XmaeConfig", "XmaeModel", "XmaeOutput"]

_PREFIX = "xmae."
_OF_THE_HUB = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
_FIELDS = tuple(field.name for field in fields(ModelCfg))


class XmaeConfig(PretrainedConfig):
    """The fields of `xmae_fast.ModelCfg`, and those that every configuration of transformers has.

    `hidden_size`, `num_attention_heads` and `num_hidden_layers` are d_model, nhead and depth_ppg.

    Raises:
        ValueError: a field is wrong; the message names it.
    """

    model_type = MODEL_TYPE
    attribute_map = {"hidden_size": "d_model", "num_attention_heads": "nhead", "num_hidden_layers": "depth_ppg"}  # noqa: RUF012

    def __init__(self, **kwargs: Any) -> None:
        kwargs = {self.attribute_map.get(name, name): value for name, value in kwargs.items()}
        cfg = ModelCfg(**{name: kwargs.pop(name) for name in _FIELDS if name in kwargs})
        for name, value in cfg.to_dict().items():
            setattr(self, name, value)
        super().__init__(**kwargs)

    def to_model_cfg(self) -> ModelCfg:
        """The configuration that `xmae_fast.xMAE` takes; ValueError for a field that has been set to a wrong value."""
        return ModelCfg(**{name: getattr(self, name) for name in _FIELDS})


@dataclass
class XmaeOutput(ModelOutput):
    """What `XmaeModel` returns.

    Attributes:
        last_hidden_state: [B, N, D], the PPG encoder's tokens in the order of time.
        pooler_output: [B, D], their mean, which pretraining trains: "pooled" of `Embedder`.
        ppg_embedding: [B, proj_dim], the mean after a projection that reconstruction does not train: `xMAE.embed`.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    ppg_embedding: Tensor | None = None


class XmaeModel(PreTrainedModel):
    """The PPG encoder of an xMAE as a model of transformers. `model.xmae` is the whole `xmae_fast.xMAE`.

    In evaluation mode and without gradient (`torch.no_grad`, `torch.inference_mode`) outputs are those of
    `xmae_fast.from_pretrained` bit for bit: the same kernels compute them.

    Args:
        config: the configuration.
        xmae: a model of that configuration to wrap; None makes one with new weights.

    Raises:
        ValueError: `xmae` has another configuration.
    """

    config_class = XmaeConfig
    base_model_prefix = "xmae"
    main_input_name = "ppg"

    def __init__(self, config: XmaeConfig, xmae: xMAE | None = None) -> None:
        super().__init__(config)
        cfg = config.to_model_cfg()
        if xmae is not None and xmae.cfg != cfg:
            raise ValueError(f"xmae: expected a model of config, {cfg}, got one of {xmae.cfg}")
        self.xmae = xMAE(cfg) if xmae is None else xmae
        self.post_init()

    @classmethod
    def from_xmae(cls, model: xMAE) -> XmaeModel:
        """Wrap a model of xmae_fast: weights, mode and preprocessing are the same, not copies."""
        config = XmaeConfig(**model.cfg.to_dict(), dtype=dtype_name(model))
        return cls(config, model).train(model.training)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any):
        """A pretrained model, in evaluation mode, with its preprocessing recipe as `model.xmae.preprocessing`.

        Arguments are those of `transformers.PreTrainedModel.from_pretrained`. Without `dtype` the weights have that of
        config.json, or float32.

        Raises:
            ValueError: weights are missing, are of no use or have another shape (`ignore_mismatched_sizes=True` and
                `output_loading_info=True` leave that to the caller).
            OSError: there is no such folder or repository.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        lenient = wants_info or kwargs.get("ignore_mismatched_sizes", False)
        hub = {name: kwargs[name] for name in _OF_THE_HUB if kwargs.get(name) is not None}
        if "torch_dtype" not in kwargs and kwargs.get("dtype") is None:
            config = kwargs.get("config")
            if not isinstance(config, PretrainedConfig):
                config = XmaeConfig.from_pretrained(config or pretrained_model_name_or_path, **hub)
            kwargs["dtype"] = config.dtype or torch.float32
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        model, info = loaded
        if not lenient:
            _check_loading(pretrained_model_name_or_path, info)
        file = cached_file(
            pretrained_model_name_or_path, PREPROCESSING, _raise_exceptions_for_missing_entries=False, **hub
        )
        for part in model.modules():
            if isinstance(part, LagBias):
                part.to(model.dtype)  # its buffers, as xMAE.to would
        if file is not None:
            model.xmae.preprocessing = read_recipe(Path(file), model.xmae.cfg)
        return (model, info) if wants_info else model

    def forward(self, ppg: Tensor, return_dict: bool | None = None, **_: Any) -> XmaeOutput | tuple:
        """Encode PPG.

        Args:
            ppg: [B, L] or [B, 1, L], L = config.seq_len, prepared: cleaned, at config.sampling_freq Hz, each
                row scaled to [-1, 1]. `xmae_fast.Embedder(model.xmae)` takes recordings as they are.
            return_dict: False for a tuple.

        Raises:
            ValueError, TypeError: naming the argument; the model has no PPG encoder.
        """
        output_shape(self.xmae, "tokens")
        signal, path = self.xmae.as_signal("ppg", ppg), self.xmae.ppg_path
        assert signal is not None  # `output_shape` has made sure that the source has PPG
        assert path is not None
        if self.training or torch.is_grad_enabled():
            self.xmae.refuse_foreign_parts()
            tokens = path.encode(signal)
        else:
            tokens = encode(self.xmae, signal, "tokens")
        result = XmaeOutput(tokens, tokens.mean(1), path.embedding(tokens))
        wants_dict = self.config.return_dict if return_dict is None else return_dict
        return result if wants_dict else result.to_tuple()

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Write a folder that `AutoModel.from_pretrained` and `xmae_fast.from_pretrained` load.

        Arguments are those of `transformers.PreTrainedModel.save_pretrained`. Keys are those of `xMAE`, and
        preprocessing.json and a model card (README.md, unless one is there) are written beside the weights.

        Raises:
            ValueError: push_to_hub=True: call `push_to_hub` instead.
        """
        if push_to_hub:
            raise ValueError("push_to_hub: expected False, got True: call model.push_to_hub('owner/name')")
        state = self.state_dict() if state_dict is None else state_dict
        bare = {key.removeprefix(_PREFIX): value for key, value in state.items()}
        super().save_pretrained(save_directory, is_main_process=is_main_process, state_dict=bare, **kwargs)
        if is_main_process:
            folder, recipe = Path(save_directory), recipe_of(self.xmae)
            write_beside(folder, recipe, model_card(self.xmae, recipe, folder.resolve().name))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what `xMAE.save_pretrained` writes, with its model card; see `xMAE.push_to_hub`."""
        return self.xmae.push_to_hub(repo_id, **options)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Give a lag bias the buffers that no file holds; xMAE has initialised all else, or a file brings it."""
        if isinstance(module, LagBias):
            for name, value in _lag_buffers(cast(XmaeConfig, self.config)):
                module.get_buffer(name).copy_(value)


def _lag_buffers(config: XmaeConfig) -> Iterator[tuple[str, Tensor]]:
    """Name and values of each buffer of a LagBias of that configuration."""
    cfg = config.to_model_cfg()
    with torch.device("cpu"):
        lag = LagCfg.parse(cfg.lag)
        assert lag is not None  # there is such a module
        yield from LagBias(lag, cfg.nhead, cfg.num_patches, cfg.patch_seconds).named_buffers()


def _check_loading(name: Any, info: Mapping[str, Any]) -> None:
    problems = [f"missing {key}" for key in sorted(info["missing_keys"])]
    problems += [f"unexpected {key}" for key in sorted(info["unexpected_keys"])]
    problems += [f"another shape of {key}" for key in sorted(str(x) for x in info.get("mismatched_keys", ()))]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"{name}: expected the weights of config.json, got {', '.join(problems[:5])}{more}")


AutoConfig.register(MODEL_TYPE, XmaeConfig, exist_ok=True)
AutoModel.register(XmaeConfig, XmaeModel, exist_ok=True)
