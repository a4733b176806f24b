"""Which parameters pretraining reaches."""

from __future__ import annotations

from torch import nn

from xmae_fast.model.xmae import xMAE

_HEAD, _DECODER = "proj.", ("dec_blk.", "decoder.", "mask_loc_table.")


def untrained_prefixes(model: xMAE) -> tuple[str, ...]:
    """Beginnings of the names of parameters that get no gradient from the loss, whatever the batch: the embedding
    heads, the bridge's unused direction, and what of the PPG path and of the token assembly this configuration leaves
    out."""
    if model.has_bridge:
        ppg = tuple(f"ppg_path.{part}" for part in (_HEAD, *_DECODER))
        return (*ppg, "ecg_path." + _HEAD, "bridger.ppg2ecg.", "mask_token")
    return "ppg_path.", "ecg_path." + _HEAD, "ecg_path.mask_loc_table."


def freeze_untrained(model: xMAE) -> list[nn.Parameter]:
    """Mark these as needing no gradient, so that no optimiser state is kept for them and DistributedDataParallel does
    not wait for them; the parameters that are trained."""
    prefixes = untrained_prefixes(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(prefixes))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
