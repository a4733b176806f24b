"""The Triton kernels of random_masking as operators, with the schemas of the C++ kernels. Imports no Triton."""

from xmae_fast.ops._triton import define_triton
from xmae_fast.ops.random_masking.schema import DRAWS, PHILOX, fake_from_draws, fake_from_seed

masks_philox = define_triton("random_masking", PHILOX, fake_from_seed)
masks_from_draws = define_triton("random_masking", DRAWS, fake_from_draws)
