"""What runs, checks and prints the chapters; it knows nothing of any paper."""
