"""Compressed networks as files that run without the suite."""
