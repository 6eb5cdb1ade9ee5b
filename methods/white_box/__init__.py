"""White-Box: channel pruning by a vote of class-wise masks."""
