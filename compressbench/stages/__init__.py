"""The stages: what the framework does around a method's functions."""
