"""What is measured: the model in plain PyTorch, stock PyTorch at its best, other runtimes, and ours."""
