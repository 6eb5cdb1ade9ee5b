"""Latency measurements: networks beside their dense ones, published structures, and the kernels."""
