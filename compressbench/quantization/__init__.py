"""Shared by quantization methods: post-training ranges, training of binary networks, super-resolution."""
