"""Shared by methods without training data: moments of batch norms, closed forms, synthetic images."""
