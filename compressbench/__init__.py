"""compressbench: neural-network compression methods, re-implemented and measured on one footing."""

__version__ = "0.1.0"
