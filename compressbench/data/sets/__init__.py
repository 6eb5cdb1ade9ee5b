"""The data sets: a module each, with what it is, how it is read and where it comes from."""
