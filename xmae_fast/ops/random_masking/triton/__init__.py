"""Triton kernels of random_masking: schema.py has their operators, launch.py (imported at the first call) launches them."""
