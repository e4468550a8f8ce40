"""Display of a running workflow in a terminal."""
