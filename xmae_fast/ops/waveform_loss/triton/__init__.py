"""Triton kernels of waveform_loss; launch.py holds the launchers, which the dispatcher imports at the first call."""
