"""Ways of making updates: by torch, for any model; by CUDA graphs; by kernels for processors and for GPUs."""
