"""Ways to run whole networks on the CPU: a module or a package for each, found by being here, and what they share."""
