"""Layers of stored compressed networks: masked, quantized, binary and gated layers, and their deployed forms."""
