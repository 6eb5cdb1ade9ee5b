"""What methods without training data share: moments of batch norms, closed forms, synthetic images."""
