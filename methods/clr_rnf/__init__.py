"""CLR-RNF."""
