"""Running networks on the CPU and timing them."""
