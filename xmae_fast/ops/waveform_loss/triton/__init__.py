"""Triton kernels of waveform_loss: operators in schema.py, launchers in launch.py, which the first call imports."""
