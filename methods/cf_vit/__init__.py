"""CF-ViT: a coarse-to-fine vision transformer."""
