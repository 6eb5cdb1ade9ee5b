"""compressbench: neural-network compression methods, re-implemented and measured under the same conditions."""

__version__ = "0.1.0"
