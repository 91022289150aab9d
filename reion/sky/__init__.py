"""Quantities computed from xi for publication: when cells are ionised, the 21-cm signal, light cones."""
