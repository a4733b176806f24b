"""Triton kernels of feed_forward: operators in schema.py, launchers in launch.py, which the first call imports."""
