"""One room for each framework; none is imported, nor its framework, before it is asked for.

Rooms: baal, huggingface, lightning, skactiveml, skactiveml_regression, skactiveml_queries (both's),
skactiveml_networks, small_text. May import: selector, selection, engine, gradients, masks,
network, factors, likelihoods, checks, arrays; not loop.
"""
