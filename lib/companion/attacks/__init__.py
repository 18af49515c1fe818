"""Triggers, poisoning, and one module for each attack."""
