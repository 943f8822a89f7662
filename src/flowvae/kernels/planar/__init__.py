"""The planar flow fused: on CPUs by numba, on CUDA by Triton, as operators of PyTorch."""
