"""Triton kernels of lag_attention: operators in schema.py, launchers in launch.py, which the first call imports."""
