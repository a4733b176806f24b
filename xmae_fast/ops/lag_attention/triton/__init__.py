"""Triton kernels of lag_attention; launch.py holds the launchers, which the dispatcher imports at the first call."""
