"""Whose model is this: fingerprints that tell a stolen network from one that was trained independently."""
