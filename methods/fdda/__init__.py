"""FDDA: post-training quantization with one real image per class and a generator aligned with the statistics of each class."""
