"""Training on the CPU without a framework between operations: kernels in C++, compiled where they run."""
