"""What computes: device, precision, memory, CUDA graphs, compilation, FLOPs, seeds. It knows no configuration."""
