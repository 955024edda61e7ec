"""The errors that end a program with one line in place of a traceback. No torch here."""


class RunError(Exception):
    """A run cannot start or continue; the message is one line for the user, `status` the exit status."""

    status = 2


class Pruned(RunError):
    """A trial was pruned; the message is one line that says when."""


class CommandError(RunError):
    """A mistake on the command line; the message is one line that names it."""


class NotSaved(RunError):
    """The results could not be written; the message is one line that says so."""

    status = 1


class DeviceError(RunError):
    """The configuration asks for hardware that is not available; the message is one line that names it."""
