"""Kernels for GPUs in Triton, which comes with torch on Linux and is imported late, and the updates that they make."""
