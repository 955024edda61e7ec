"""The keys under which a run's metrics are recorded. No torch here."""


def suffix(weights: str) -> str:
    """The suffix of the metric names of an average's weights; empty for the model's own."""
    return "" if weights == "model" else f"_{weights}"
