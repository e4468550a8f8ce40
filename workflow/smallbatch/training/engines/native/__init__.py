"""Training on the CPU without a framework between the operations: kernels in C++, compiled where they run."""
