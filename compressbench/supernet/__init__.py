"""What trains one network for many budgets: the space of structures, sampling, tables of latencies."""
