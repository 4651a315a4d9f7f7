"""A step is one file: typed in, typed out."""
