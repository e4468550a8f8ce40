"""The claims of the paper, and how each is judged from the tables of a study."""
