"""Latency measurements: networks beside their dense ones, what methods deploy at full size, and the kernels."""
