"""A thin active-learning loop: train, query, label, train again, evaluate.

It shows what a batch of ``FisherMaskSelector`` buys over others on real images, and is what the
``fishermask-fast run`` command drives.
"""
