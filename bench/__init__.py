"""Measured comparisons. Numbers are ratios to a bare loop of the same run, because machines are noisy."""
