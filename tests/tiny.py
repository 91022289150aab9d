"""The smallest default network that still does everything, for tests that are not about what is learnt."""

TINY_NETWORK = (
    "model.smoothing_cells=[3,3]",
    "model.diffusion_cells=[3,3]",
    "model.width=6",
    "model.hidden=4",
    "model.blocks=1",
    "training.crop_cells=4",
)
"""Settings of a run; how many crops and steps a test takes is its own."""
