"""Triton kernels of patch_embed: schema.py has their operators, launch.py (imported at the first call) launches them."""
