"""From xi to the sky: when cells are ionised, the 21-cm signal, light cones."""
