"""Which parameters pretraining trains."""

from __future__ import annotations

from torch import nn

from xmae_fast.model.xmae import xMAE

_HEAD, _DECODER = "proj.", ("dec_blk.", "decoder.", "mask_loc_table.")


def untrained_prefixes(model: xMAE, embedding: bool = False) -> tuple[str, ...]:
    """Beginnings of the names of the parameters that get no gradient from the loss, whatever the batch is.

    They are the embedding heads, the direction of the bridge that the loss does not use, and the parts of the PPG path
    and of the assembly of tokens that this configuration does not use.

    Args:
        model: the model.
        embedding: whether a loss of `ppg_embedding` is added, which trains its head.
    """
    if model.has_bridge:
        ppg = tuple(f"ppg_path.{part}" for part in (*(() if embedding else (_HEAD,)), *_DECODER))
        return (*ppg, "ecg_path." + _HEAD, "bridger.ppg2ecg.", "mask_token")
    return "ppg_path.", "ecg_path." + _HEAD, "ecg_path.mask_loc_table."


def freeze_untrained(model: xMAE, embedding: bool = False) -> list[nn.Parameter]:
    """Mark the parameters of `untrained_prefixes` as needing no gradient.

    No state of the optimiser is then kept for them, and processes do not exchange gradients of them.

    Returns:
        The other parameters, which are trained.
    """
    prefixes = untrained_prefixes(model, embedding)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(prefixes))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
