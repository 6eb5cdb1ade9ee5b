"""IntraQ: zero-shot quantization with synthetic images that differ within a class."""
