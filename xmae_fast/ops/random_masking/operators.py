"""The operators of each implementation of random_masking. Masks have no gradients."""

from xmae_fast.ops.random_masking import schema
from xmae_fast.ops.random_masking.triton import schema as triton_schema

OPERATORS = {"cpu": schema, "triton": triton_schema}
