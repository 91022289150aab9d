"""Training: from Simulations to a run folder."""
