"""FFSD: a leader is trained on the fused features of students that imitate each other."""
