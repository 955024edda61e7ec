"""Files that are hostile."""

from pathlib import Path


class Bomb:
    """Runs a command when it is unpickled by an unpickler that lets it."""

    def __reduce__(self):
        return Path.touch, (Path("exploded"),)
