"""The data sets, a module each: description, loader and source."""
