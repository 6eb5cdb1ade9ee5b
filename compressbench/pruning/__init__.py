"""What pruning methods share: masks, blocks, filters, and cutting them out."""
