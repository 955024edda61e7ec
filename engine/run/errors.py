"""The errors that end a program with one line in place of a traceback. No torch here."""


class RunError(Exception):
    """A run cannot be, or cannot go on; the message is one line for a person, `status` the exit status."""

    status = 2


class Pruned(RunError):
    """A trial of a study ends early, since others did better by then; the message is one line that says when."""


class CommandError(RunError):
    """A mistake on the command line; the message is one line that names it."""


class NotSaved(RunError):
    """What a program came to could not be written; the message is one line that says so."""

    status = 1


class DeviceError(RunError):
    """The machine lacks what the configuration asks for; the message is one line that names it."""
