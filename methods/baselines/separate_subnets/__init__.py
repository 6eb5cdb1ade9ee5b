"""Separately trained subnets."""
