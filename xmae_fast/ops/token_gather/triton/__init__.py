"""Triton kernels of token_gather; launch.py holds the launchers, which the dispatcher imports at the first call."""
