"""Triton kernels of conv_stem: operators in schema.py, launchers in launch.py, which the first call imports."""
