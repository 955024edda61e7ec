"""A trained network put to use: loaded, exported, predicting. It knows nothing of training."""
