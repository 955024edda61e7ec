"""What ends a run before it has a result, and is no mistake of the program's. No torch here."""


class RunError(Exception):
    """A run cannot be, or cannot go on; the message is one line for a person, `status` the exit status."""

    status = 2


class Pruned(RunError):
    """A trial of a study ends early, since others did better by then; the message is one line that says when."""
