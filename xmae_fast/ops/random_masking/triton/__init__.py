"""Triton kernels of random_masking: operators in schema.py, launchers in launch.py, which the first call imports."""
