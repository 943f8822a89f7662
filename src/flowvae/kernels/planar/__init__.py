"""The planar flow fused: on CPUs by numba, on CUDA by Triton, as operators of PyTorch."""

__all__ = ["ROUNDINGS"]

ROUNDINGS = 4.0  # by so many a difference may be off, beside its terms
