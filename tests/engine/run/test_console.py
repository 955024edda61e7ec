"""Output that cannot be written fails nothing."""

import subprocess
import sys

import pytest

from tests.support.runs import ROOT

PROGRAM = """
import sys
from engine.run.console import Console, echo, logger, prepare_streams
prepare_streams()
with open("file", "w"):  # gets no descriptor of a stream
    logger.addHandler(Console(sys.stdout))
    logger.setLevel("INFO")
    for _ in range(3):
        echo("output: \u00fc")
        echo("error: \u00fc", error=True)
        logger.info("logged: \u00fc")
    sys.stderr.write("of a library")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="has no /dev/full")
@pytest.mark.parametrize(
    ("how", "stdout", "stderr"),
    [
        ("", 6, 3),
        ("2>&-", 6, 0),
        (">&-", 0, 3),
        (">&- 2>&-", 0, 0),
        ("2>/dev/full", 6, 0),
        (">/dev/full", 0, 3),
        (">/dev/full 2>&-", 0, 0),
    ],
)
def test_a_stream_that_is_closed_or_full_or_cannot_encode_fails_nothing(how, stdout, stderr, tmp_path):
    environment = {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    command = ["/bin/sh", "-c", f'"$0" -c "$1" {how}', sys.executable, PROGRAM]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert (ended.stdout.count("\\xfc"), ended.stderr.count("error: \\xfc")) == (stdout, stderr)
    assert "Traceback" not in ended.stderr
    assert (tmp_path / "file").read_text() == ""
