"""The drop-in model. `from xmae_fast.model import *` brings the names that the published module brings."""

from dataclasses import dataclass
from typing import Dict, Optional, Tuple  # noqa: UP035  the published module's names

import torch
import torch.nn.functional as F
from torch import nn

from xmae_fast.config import ModelCfg
from xmae_fast.model.blocks import (
    Bridger,
    CrossAttentionBlock,
    TransformerDecoderLite,
    TransformerEncoder,
    TransformerEncoderBlock,
    WaveformDecoder,
)
from xmae_fast.model.path import SinglePath
from xmae_fast.model.stem import ConvBNAct, InceptionBlock1D, PatchEmbed1D, UNetHalfInceptionStem1D
from xmae_fast.model.xmae import build_model_from_cfg, xMAE

__all__ = [
    "Bridger",
    "ConvBNAct",
    "CrossAttentionBlock",
    "Dict",
    "F",
    "InceptionBlock1D",
    "ModelCfg",
    "Optional",
    "PatchEmbed1D",
    "SinglePath",
    "TransformerDecoderLite",
    "TransformerEncoder",
    "TransformerEncoderBlock",
    "Tuple",
    "UNetHalfInceptionStem1D",
    "WaveformDecoder",
    "build_model_from_cfg",
    "dataclass",
    "nn",
    "torch",
    "xMAE",
]
