"""The first look at a simulation: numbers, checks and pictures."""
