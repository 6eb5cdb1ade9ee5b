"""DCFF: dynamic-coded filter fusion."""
