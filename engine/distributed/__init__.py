"""Distributed training: ranks, synchronised batch normalization, the launcher. It knows no configuration."""
