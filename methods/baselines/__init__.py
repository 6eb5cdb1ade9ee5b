"""The baselines of the suite, in the same form as the methods of papers."""
