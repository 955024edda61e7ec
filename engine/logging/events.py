"""TensorBoard's event files, written without a thread, so that the caller sees an error."""

import os
import platform
import re
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class EventFile:
    """A new event file in a directory, read after those that are there, whose steps after `step` are dropped.

    Every method may raise OSError.
    """

    def __init__(self, directory: Path, *, step: int):
        directory.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files in the order of their names, which begin with seconds.
        names = [file.name for file in directory.glob("events.out.tfevents.*")]
        seconds = [int(digits) for name in names for digits in re.findall(r"tfevents\.(\d+)\.", name)]
        moment = max([int(time.time()), *(before + 1 for before in seconds)])
        self.path = directory / f"events.out.tfevents.{moment:010d}.{platform.node()}.{os.getpid()}"
        self.file = open(self.path, "wb")  # noqa: SIM115 (open until the run ends)
        self.records = RecordWriter(self.file)
        self._write(Event(file_version="brain.Event:2"))
        if names:
            self._write(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))
        self.flush()

    def add(self, summary: Summary, step: int) -> None:
        """Add what one of `torch.utils.tensorboard.summary`'s functions made."""
        self._write(Event(summary=summary, step=step))

    def add_graph(self, graph: GraphDef) -> None:
        """Add the operators of a network."""
        self._write(Event(graph_def=graph.SerializeToString()))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self.records.write(event.SerializeToString())

    def flush(self) -> None:
        """Write everything that was added; raise FileNotFoundError if the file was deleted."""
        if not self.path.exists():
            raise FileNotFoundError(2, "it was deleted", str(self.path))
        self.file.flush()

    def close(self) -> None:
        """Write what is left, and close the file."""
        self.file.close()
