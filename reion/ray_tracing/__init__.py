"""Ray tracing: the ionised fraction computed from density and sources, where there is no truth yet."""
