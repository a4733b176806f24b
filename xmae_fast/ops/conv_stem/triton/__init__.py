"""Triton kernels of conv_stem; launch.py holds the launchers, which the dispatcher imports at the first call."""
