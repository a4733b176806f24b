"""Triton kernels of lag_attention: schema.py has their operators, launch.py (imported at the first call) launches them."""
