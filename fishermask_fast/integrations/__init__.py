"""One room for each framework; none is imported, nor its framework, before it is asked for.

Rooms: baal, huggingface, lightning, skactiveml, skactiveml_regression, skactiveml_networks,
small_text. May import: selector and below; not loop.
"""
