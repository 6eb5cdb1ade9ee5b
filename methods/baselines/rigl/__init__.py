"""RigL (Evci et al. 2020): dynamic sparse training from random weights."""
