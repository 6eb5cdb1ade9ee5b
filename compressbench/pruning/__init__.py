"""Shared by pruning methods: masks, blocks, filters, and their removal."""
