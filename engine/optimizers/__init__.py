"""Optimizers that torch.optim lacks, or has in another form than the papers of the networks used."""
