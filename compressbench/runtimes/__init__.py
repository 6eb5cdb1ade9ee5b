"""Executors of whole networks on the CPU, one module each."""
