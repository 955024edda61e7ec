"""The record of a run: console, files, TensorBoard. It knows figures, not how they are computed."""
