"""What several methods share: compressed layers, masks, quantizers, blocks, folding and surgery."""
