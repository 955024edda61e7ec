"""The keys under which a run's figures are recorded. No torch here."""


def suffix(weights: str) -> str:
    """What the names of figures end with that belong to these weights: nothing for the network's own."""
    return "" if weights == "model" else f"_{weights}"
