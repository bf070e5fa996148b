"""Whole experiments: the paper's tables and figures, each from one YAML."""
