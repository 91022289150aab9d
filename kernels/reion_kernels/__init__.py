"""Numba kernels of reion: arrays in, arrays out. Imports numpy and numba, nothing else."""

from reion_kernels._jit import announce_compilation, compile_kernels
from reion_kernels.affine import TRANSFORMS, Transform, affine
from reion_kernels.chemistry import Ionisation, ionise
from reion_kernels.crops import crop, crop_batch
from reion_kernels.deposit import deposit
from reion_kernels.distance import signed_distance
from reion_kernels.evolution import Photons, Step, evolve_step
from reion_kernels.moments import Moments, moments
from reion_kernels.photo_table import PhotoTable, black_body_table, power_law_table
from reion_kernels.photon_channels import BoxMean, PhotonPlan, PhotonReach, photon_channels
from reion_kernels.raytracing import Rays, trace_rays
from reion_kernels.redshift_space import move_cells
from reion_kernels.residual_trunk import TrunkWeights, residual_trunk
from reion_kernels.symmetry import (
    N_ROTATIONS,
    N_SYMMETRIES,
    inverse,
    permutation_and_flips,
    rotate,
    symmetry,
)
from reion_kernels.trunk_gradients import TrunkGradients

__all__ = [
    "N_ROTATIONS",
    "N_SYMMETRIES",
    "TRANSFORMS",
    "BoxMean",
    "Ionisation",
    "Moments",
    "PhotoTable",
    "PhotonPlan",
    "PhotonReach",
    "Photons",
    "Rays",
    "Step",
    "Transform",
    "TrunkGradients",
    "TrunkWeights",
    "affine",
    "announce_compilation",
    "black_body_table",
    "compile_kernels",
    "crop",
    "crop_batch",
    "deposit",
    "evolve_step",
    "inverse",
    "ionise",
    "moments",
    "move_cells",
    "permutation_and_flips",
    "photon_channels",
    "power_law_table",
    "residual_trunk",
    "rotate",
    "signed_distance",
    "symmetry",
    "trace_rays",
]
