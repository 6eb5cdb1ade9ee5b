"""Layers on the CPU: native code, and its Python faces. Nothing here knows a network."""
