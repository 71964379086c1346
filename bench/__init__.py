"""Measured comparisons: everything that is compared runs side by side, in turn, in one run."""
