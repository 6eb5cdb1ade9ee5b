"""What a stored compressed network is made of: masked, quantized, binary and gated layers, and their deployed forms."""
