"""Executors of whole networks on the CPU: a module, or a package, for each, and what they share."""
