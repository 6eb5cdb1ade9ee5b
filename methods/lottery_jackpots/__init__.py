"""Lottery Jackpots: a mask searched for weights that never change."""
