"""Post-training quantization: rounding cells, the attack that lives in them, deployment, and what wakes or kills it."""
