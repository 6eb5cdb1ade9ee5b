"""N:M sparsity (2:4): N of every M consecutive input channels stay."""
