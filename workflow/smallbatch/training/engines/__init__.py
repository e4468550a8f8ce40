"""How steps are made: by torch, of any model; as CUDA graphs; by kernels for processors and for GPUs."""
