"""Measured figures and the scripts that measure them."""
