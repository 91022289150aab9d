"""The Simulation, reion's data type: its contract, its units, its lazy fields and its meshes."""
