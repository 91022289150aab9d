"""Numba kernels of reion: arrays in, arrays out. Imports numpy and numba, nothing else."""
