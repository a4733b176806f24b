"""What a machine with a GPU is to show: the parts of gpu_check.py."""
