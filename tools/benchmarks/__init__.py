"""The insides of the bench_*.py: what is timed beside what."""
