"""Triton kernels of patch_embed: operators in schema.py, launchers in launch.py, which the first call imports."""
