"""ReCU: binary networks whose latent weights are clamped to the quantiles of a Laplace distribution."""
