"""One module for each framework; none is imported, nor its framework, before it is asked for."""
