"""CPU kernels of what surrounds the flows: draws and their densities, and a likelihood."""
