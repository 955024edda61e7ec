"""What a network answers, and metrics of it. It knows logits and labels, not where they come from."""
