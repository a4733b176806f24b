"""Triton kernels of patch_embed; launch.py holds the launchers, which the dispatcher imports at the first call."""
