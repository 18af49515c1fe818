"""A tested library of attacks, defences and evaluations for deep vision models."""
