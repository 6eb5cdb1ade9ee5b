"""The compression methods of the suite, one folder each."""
