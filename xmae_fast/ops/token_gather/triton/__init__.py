"""Triton kernels of token_gather: schema.py has their operators, launch.py (imported at the first call) launches them."""
