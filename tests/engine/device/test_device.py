"""One run on several machines, which network namespaces stand for: each has addresses and links of its own.

The name of the machine leads to none of these addresses, as on many real ones.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from engine.distributed.network import SILENCE, answers, can_listen, heeding_silence, interface_of, own_address
from tests.support.ranks import MASKED, SECONDS, SETTINGS, Group, records, wait_for, weights
from tests.support.runs import ROOT, same

IP = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
PORT = 29400


def ip(*words: str) -> str:
    """What the command `ip` answers."""
    return subprocess.run([IP, *words], check=True, capture_output=True, text=True).stdout


class Machine:
    """A namespace with one address, at a port of a switch."""

    def __init__(self, name: str, switch: str, number: int):
        self.name, self.switch, self.port, self.address = name, switch, f"port{number}", f"10.77.0.{number}"
        ip("link", "add", self.port, "netns", switch, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("-n", switch, "link", "set", self.port, "master", "bridge")
        ip("-n", name, "address", "add", f"{self.address}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            ip("-n", name, "link", "set", link, "up")
        self.connect()
        self.begun: list[subprocess.Popen] = []

    def connect(self) -> None:
        """Plug in the cable."""
        ip("-n", self.switch, "link", "set", self.port, "up")

    def cut_off(self) -> None:
        """Pull the cable: nothing arrives, and nobody is told."""
        ip("-n", self.switch, "link", "set", self.port, "down")

    def begin(self, *words: str, errors: Path) -> subprocess.Popen:
        """Start train.py, as a user on this machine would."""
        with open(errors, "a") as trouble:
            process = subprocess.Popen(
                [IP, "netns", "exec", self.name, sys.executable, str(ROOT / "train.py"), *words],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
                stderr=trouble,
            )
        self.begun.append(process)
        return process

    def fail(self) -> None:
        """End everything that runs on it."""
        end_all_in(self.name)
        for process in self.begun:
            process.wait()


def end_all_in(namespace: str) -> None:
    """Kill the processes of a namespace."""
    for number in ip("netns", "pids", namespace).split():
        with suppress(ProcessLookupError):
            os.kill(int(number), signal.SIGKILL)


@pytest.fixture
def machines() -> Iterator[list[Machine]]:
    """Two machines at a switch, which are removed with all that runs on them."""
    if IP is None or not sys.platform.startswith("linux"):
        pytest.skip("network namespaces need Linux and its command ip")
    names = [f"cifar-{os.getpid()}-{what}" for what in ("switch", "1", "2")]
    made, machines = [], []
    try:
        try:
            for name in names:
                ip("netns", "add", name)
                made.append(name)
            ip("-n", names[0], "link", "add", "bridge", "type", "bridge")
            ip("-n", names[0], "link", "set", "bridge", "up")
            machines += [Machine(name, names[0], number) for number, name in enumerate(names[1:], 1)]
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this user may not make network namespaces: {error.stderr.strip()}")
        yield machines
    finally:
        for machine in machines:
            machine.fail()
        for name in made:
            ip("netns", "delete", name)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1], ids=["where all meet", "another"])
def test_a_machine_cut_off_is_noticed_and_all_go_on_when_it_is_back(lost, machines, tmp_path):
    undisturbed, run = (tmp_path / name for name in ("undisturbed", "run"))
    words = (*SETTINGS, MASKED, "trainer.max_epochs=10", "trainer.checkpoint_every_steps=1")
    several = ("trainer.nodes=2", f"trainer.rendezvous={machines[0].address}:{PORT}", "trainer.max_restarts=1")
    command = (*words, *several, f"hydra.run.dir={run}", "resume=auto")
    errors = [tmp_path / f"{machine.name}.errors" for machine in machines]
    assert Group(2, *words, directory=undisturbed).end() == [0, 0]

    running = [machine.begin(*command, errors=said) for machine, said in zip(machines, errors, strict=True)]
    wait_for((run / "checkpoints" / "previous.pt").exists, lambda: all(one.poll() is None for one in running))
    machines[lost].cut_off()
    cut = time.monotonic()
    wait_for(lambda: "cannot be reached" in errors[1 - lost].read_text(), lambda: running[1 - lost].poll() is None)
    assert time.monotonic() - cut < SILENCE + 20
    assert weights(run)["step"] < weights(undisturbed)["step"]

    machines[lost].fail()
    machines[lost].connect()
    running[lost] = machines[lost].begin(*command, errors=errors[lost])
    assert [one.wait(SECONDS) for one in running] == [0, 0], [said.read_text() for said in errors]
    assert same((weights(run), records(run)), (weights(undisturbed), records(undisturbed)))


def test_machines_meet_where_one_of_them_can_listen():
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = f"127.0.0.1:{server.getsockname()[1]}"
        assert not can_listen(where), "somebody else does"
        assert answers(where, 0)
    assert can_listen(where)
    assert not answers(where, 0)
    assert not can_listen("198.51.100.1:29400"), "an address of nobody"
    assert not can_listen("no.such.host.invalid:29400")


def test_no_loopback_address_is_given_to_other_machines():
    assert own_address("127.0.0.1") == own_address("no.such.host.invalid") != "127.0.0.1"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone gives up connections after a time")
def test_connections_made_meanwhile_are_given_up_in_silence_and_other_files_left_alone(tmp_path):
    assert interface_of("127.0.0.1") == "lo"
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        open(tmp_path / "file", "w"),
        socket.create_connection(server.getsockname()) as client,
    ):
        with heeding_silence():
            wait_for(lambda: client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1, lambda: True)
        assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * SILENCE
        client.sendall(b"it works as before")
