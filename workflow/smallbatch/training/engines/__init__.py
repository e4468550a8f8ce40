"""How steps are made: by any model in torch, as CUDA graphs, by kernels for processors."""
