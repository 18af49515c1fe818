"""Manifests, verified files, loaders and generated worlds."""
