"""The planar flow at the machine's speed: the same function, forward, adjoint and inverse."""
