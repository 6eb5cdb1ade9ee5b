"""A supernet with uniform sampling."""
