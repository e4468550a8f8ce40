"""What is to be trained: settings, rates, experiments and their runs."""
