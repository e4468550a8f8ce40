"""The foundation of all other packages: errors, files, logs, provenance, seeds, signals."""
