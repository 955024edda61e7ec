"""Device, precision, memory, CUDA graphs, compilation, FLOPs and seeds. It knows no configuration."""
