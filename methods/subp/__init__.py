"""SUBP: soft uniform block pruning."""
