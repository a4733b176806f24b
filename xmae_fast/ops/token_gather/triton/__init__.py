"""Triton kernels of token_gather: operators in schema.py, launchers in launch.py, which the first call imports."""
