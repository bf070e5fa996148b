"""The command lines, and what only they need: ``benchmarks`` and ``studies``. Run from the repository."""
