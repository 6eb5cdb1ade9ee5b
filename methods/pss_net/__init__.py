"""Prioritized subnet sampling."""
