"""Triton kernels of random_masking; launch.py holds the launchers, which the dispatcher imports at the first call."""
