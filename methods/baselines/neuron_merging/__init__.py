"""Neuron Merging."""
