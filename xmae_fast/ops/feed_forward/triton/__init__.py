"""Triton kernels of feed_forward; launch.py holds the launchers, which the dispatcher imports at the first call."""
