"""Load, export and predict with a trained network. It knows nothing of training."""
