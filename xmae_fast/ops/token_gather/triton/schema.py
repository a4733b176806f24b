"""The Triton kernels of token_gather as operators, with the schemas of the C++ kernels. Imports no Triton."""

from __future__ import annotations

from xmae_fast.ops._triton import define_triton
from xmae_fast.ops.token_gather import schema

_OP = "token_gather"
gather_patches = define_triton(_OP, *schema.GATHER)
gather_patches_backward = define_triton(_OP, *schema.GATHER_BACKWARD)
assemble_queries = define_triton(_OP, *schema.ASSEMBLE)
assemble_queries_backward = define_triton(_OP, *schema.ASSEMBLE_BACKWARD)
restore_tokens = define_triton(_OP, *schema.RESTORE)
restore_tokens_backward = define_triton(_OP, *schema.RESTORE_BACKWARD)
masked_samples = define_triton(
    _OP,
    "masked_samples(Tensor ids_restore, SymInt kept, SymInt patch_len, ScalarType dtype) -> Tensor",
    schema.fake_masked,
)
