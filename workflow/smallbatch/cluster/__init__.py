"""SLURM: its commands, the requests of jobs, and patches of the executor plugin."""
