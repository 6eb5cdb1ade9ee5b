"""ReCU: binary networks whose far-out latent weights are clamped to the quantiles of a Laplace law."""
