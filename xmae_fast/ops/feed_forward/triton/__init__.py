"""Triton kernels of feed_forward: schema.py has their operators, launch.py (imported at the first call) launches them."""
