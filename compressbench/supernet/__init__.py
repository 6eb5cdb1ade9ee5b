"""Training of one network for many budgets: the space of structures, sampling, latency tables."""
