"""The Simulation: the one data type, its units, its lazy fields and its meshes."""
