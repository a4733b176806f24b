"""The operators that an xMAE is composed of; each is a folder with its contract, its oracle and its kernels."""

# isort: off
# Importing an operator declares it. `backend.OPS` and `explain` name the operators in this order, that of a forward.
from xmae_fast.ops.random_masking import PatchMask, masks_from_seed, random_masking
from xmae_fast.ops.token_gather import assemble_queries, gather_patches, masked_samples, restore_tokens
from xmae_fast.ops.conv_stem import conv_stem, conv_stems
from xmae_fast.ops.patch_embed import patch_embed
from xmae_fast.ops.lag_attention import attention_weights, lag_attention
from xmae_fast.ops.feed_forward import feed_forward
from xmae_fast.ops.waveform_loss import decode_waveform, masked_mse, waveform_loss
# isort: on

__all__ = [
    "PatchMask",
    "assemble_queries",
    "attention_weights",
    "conv_stem",
    "conv_stems",
    "decode_waveform",
    "feed_forward",
    "gather_patches",
    "lag_attention",
    "masked_mse",
    "masked_samples",
    "masks_from_seed",
    "patch_embed",
    "random_masking",
    "restore_tokens",
    "waveform_loss",
]
