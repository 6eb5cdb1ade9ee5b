"""DF-MPC."""
