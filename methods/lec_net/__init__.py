"""LEC-Net: expansion in every session, compressed by gates on the activations of the nodes."""
