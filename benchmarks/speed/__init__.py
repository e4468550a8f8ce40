"""The same cells trained by this engine and by what one would use instead, in turn in one command; see `__main__`."""
