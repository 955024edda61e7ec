"""Several processes of one run: ranks, synchronised batch normalization, the launcher. It knows no configuration."""
