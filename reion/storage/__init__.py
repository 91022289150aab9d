"""Simulations on disk: the Zarr store, and the conversion of other formats to such a store."""
