"""Binary networks that a key reconfigures: layers, networks, keys, device binding, 1-bit storage and arithmetic."""
