"""What all else stands on: errors, files, logs, provenance, seeds, signals."""
