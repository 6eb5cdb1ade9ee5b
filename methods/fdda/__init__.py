"""FDDA: post-training quantization with one real image per class and a generator that knows each class's statistics."""
