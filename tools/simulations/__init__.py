"""The insides of tools/simulate_*.py: made worlds in which the right answer is known."""
