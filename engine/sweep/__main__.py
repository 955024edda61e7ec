"""Print the table of a sweep at any time, also while it runs: python -m engine.sweep multirun/NAME."""

import argparse
from pathlib import Path

from engine.config.did_you_mean import did_you_mean
from engine.sweep.jobs import show


def main() -> None:
    """The table of the sweep that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m engine.sweep", description="What the runs of a sweep came to.")
    parser.add_argument("directory", type=Path, help="of the sweep, as multirun/NAME")
    directory = parser.parse_args().directory
    if not directory.is_dir():
        parser.exit(2, f"python -m engine.sweep: {directory}: no such directory{nearest(directory)}\n")
    if not next(directory.rglob("result.json"), None):
        parser.exit(2, f"python -m engine.sweep: {directory}: there are no runs\n")
    show(directory)


def nearest(directory: Path) -> str:
    """The sweep whose name is like that of a directory which is missing, as a question."""
    return did_you_mean(directory.name, sorted(file.parent.name for file in directory.parent.glob("*/multirun.yaml")))


if __name__ == "__main__":
    main()
