"""Measurements of xmae_fast against the plain path and the best stock PyTorch; `python benchmarks/run.py`."""
