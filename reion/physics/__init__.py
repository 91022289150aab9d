"""Physics without learning: the excursion set and the mean free path of photons."""
