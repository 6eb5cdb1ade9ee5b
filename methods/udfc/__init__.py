"""UDFC."""
