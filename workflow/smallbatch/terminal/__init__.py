"""What a call of the workflow shows in a terminal while it works."""
