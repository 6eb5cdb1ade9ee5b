"""The simple methods that every paper has to beat, in the same form as the papers."""
