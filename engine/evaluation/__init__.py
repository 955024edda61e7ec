"""Predictions of a network and metrics of them. It knows logits and labels, not where they come from."""
