"""What takes how long: networks beside their dense ones, published structures, and our kernels."""
