"""Numba kernels of reion: arrays in, arrays out. Imports numpy and numba, nothing else."""

from reion_kernels._jit import cache_is_cold, compile_kernels
from reion_kernels.affine import TRANSFORMS, Transform, affine, inverse_affine
from reion_kernels.crops import crop, crop_batch
from reion_kernels.deposit import accumulate, deposit
from reion_kernels.moments import Moments, moments
from reion_kernels.symmetry import (
    N_ROTATIONS,
    N_SYMMETRIES,
    compose,
    inverse,
    permutation_and_flips,
    rotate,
    symmetry,
)

__all__ = [
    "N_ROTATIONS",
    "N_SYMMETRIES",
    "TRANSFORMS",
    "Moments",
    "Transform",
    "accumulate",
    "affine",
    "cache_is_cold",
    "compile_kernels",
    "compose",
    "crop",
    "crop_batch",
    "deposit",
    "inverse",
    "inverse_affine",
    "moments",
    "permutation_and_flips",
    "rotate",
    "symmetry",
]
