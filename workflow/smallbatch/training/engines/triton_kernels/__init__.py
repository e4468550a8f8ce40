"""Updates by GPU kernels in Triton, which is part of torch on Linux and is imported only when needed."""
