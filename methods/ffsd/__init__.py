"""FFSD: a leader learns from the fused features of students that learn from each other."""
