"""The training state, its step, the loop over epochs, checkpoints. It knows no configuration."""
