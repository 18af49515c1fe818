"""Digests of the shipped base weights, one module a model, each written by `companion zoo build`.

They are Python so that a run's key covers the weights that its chapter loads, and those alone.
"""
