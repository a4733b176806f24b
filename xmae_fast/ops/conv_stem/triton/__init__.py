"""Triton kernels of conv_stem: schema.py has their operators, launch.py (imported at the first call) launches them."""
