"""LEC-Net: tentative expansion per session, compressed by gates that the nodes switch themselves."""
