"""What a study takes before anything is trained, and what its jobs ask a cluster for."""
