"""One module for each defence."""
