"""Triton kernels of waveform_loss: schema.py has their operators, launch.py (imported at the first call) launches them."""
