"""Devices, memory, processors, and how many lanes are trained at once."""
