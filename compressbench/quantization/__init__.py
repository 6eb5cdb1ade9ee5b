"""What quantization methods share: ranges after training, trained binary networks, super-resolution."""
