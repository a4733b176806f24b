"""The stem's CUDA C++ operators: schemas, fakes and autograd. Kernels are in csrc/cuda."""
