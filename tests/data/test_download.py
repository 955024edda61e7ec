"""Downloads from mirrors (a local server stands in for them) that fail in many ways, and several processes at once."""

import hashlib
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from data import cifar, download
from data.cifar import CIFAR10, CIFAR100, cifar10, cifar100
from data.dataset import DataError
from tests.support.archives import FACTS, archive_bytes, as_published
from tests.support.runs import ROOT

CONTENT = bytes(range(256)) * 40
HALF = len(CONTENT) // 2
ENDLESS_BYTES = 1 << 28


class Mirror(http.server.BaseHTTPRequestHandler):
    """Serves the server's `content`; the first word of the path says what is wrong with how it does that."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        content, kind = self.server.content, urlsplit(self.path).path.split("/")[1]
        self.server.requests.append((self.path, self.headers.get("Range")))
        start = 0 if kind in ("whole", "elsewhere") else int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if kind == "wrong":
            content = content[:-1] + bytes([content[-1] ^ 1])
        if kind == "waiting":
            self.server.go_on.wait(30)
        if kind == "gone":
            return self.send_error(404)
        if kind == "unsatisfiable" or start >= len(content):
            return self.send_error(416)
        if kind == "silent":
            return self.server.go_on.wait(30)
        if kind == "other":
            self.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")
            return None
        body = content[start:]
        length = {"long": len(body) + 100, "short": len(body) - 100, "nonsense": "many", "vast": "9" * 9999}.get(
            kind, len(body)
        )
        # A server that sends another part than the one asked for, and says it is that one.
        self.send_response(206 if start or kind == "elsewhere" else 200)
        if kind in ("chunked", "chunked_cut"):
            self.send_header("Transfer-Encoding", "chunked")
            body = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
        elif kind not in ("unknown", "endless"):
            self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()
        if kind == "endless":
            with suppress(OSError):  # until the other side has had enough
                while self.server.sent < ENDLESS_BYTES:
                    self.wfile.write(bytes(1 << 20))
                    self.server.sent += 1 << 20
            return None
        self.wfile.write(body[: len(body) // 2] if kind in ("cut", "chunked_cut", "stalled") else body)
        if kind == "stalled":
            self.wfile.flush()
            self.server.go_on.wait(30)
        return None

    def handle(self):
        self.close_connection = True
        self.handle_one_request()

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """A local HTTP server: `.url` is its address, `.content` what it serves, `.requests` what was asked."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        server.content, server.requests, server.sent, server.go_on = CONTENT, [], 0, threading.Event()
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def published(server, monkeypatch):
    """The server holds a small CIFAR-10 that the program takes for the published one."""
    server.content = archive_bytes(CIFAR10)
    monkeypatch.setattr(cifar, "CIFAR10", as_published(CIFAR10, server.content))
    return server


@pytest.fixture
def silence(request):
    """The port of a socket that takes no more connections, as behind a firewall that lets packets vanish."""
    family, host = getattr(request, "param", (socket.AF_INET, "127.0.0.1"))
    with ExitStack() as sockets:
        listening = sockets.enter_context(socket.socket(family))
        try:
            listening.bind((host, 0))
        except OSError as error:
            pytest.skip(f"{host}: {error}")
        listening.listen(0)
        for _ in range(4):
            connection = sockets.enter_context(socket.socket(family))
            connection.setblocking(False)
            connection.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


def fetched(directory: Path, *mirrors: str) -> bytes:
    """What is there of CONTENT after a download from these mirrors; nothing else may be there then."""
    download.fetch(directory / "file", mirrors=mirrors, md5=hashlib.md5(CONTENT).hexdigest())
    assert [path.name for path in directory.iterdir()] == ["file"]
    return (directory / "file").read_bytes()


def refused(directory: Path, *mirrors: str) -> str:
    """The one line that says why there was no download."""
    with pytest.raises(DataError) as caught:
        fetched(directory, *mirrors)
    assert not (directory / "file").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_cifar10_is_downloaded_once_and_read(published, tmp_path):
    for _ in range(2):
        data = cifar10(root=str(tmp_path), mirrors=[f"{published.url}/good/cifar-10-python.tar.gz"], **FACTS)
    assert len(published.requests) == 1
    assert data.train.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    left = ["cifar-10-batches-py", "cifar-10-python.tar.gz", "cifar-10-python.tar.gz.lock"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left


def test_cifar100_is_downloaded(server, monkeypatch, tmp_path):
    server.content = archive_bytes(CIFAR100)
    monkeypatch.setattr(cifar, "CIFAR100", as_published(CIFAR100, server.content))
    assert len(cifar100(root=str(tmp_path), mirrors=[f"{server.url}/good"], labels="fine", **FACTS).train) == 2


# What mirrors do

BAD = {
    "gone": "HTTP 404 Not Found",
    "unsatisfiable": "HTTP 416 Requested Range Not Satisfiable",
    "wrong": "wrong checksum",
    "short": "wrong checksum",
    "endless": "wrong checksum",
    "cut": f"the connection broke after {HALF:,} of {len(CONTENT):,} bytes",
    "chunked_cut": "IncompleteRead(",
    "other": "SSH-2.0-OpenSSH_9.6",
    "silent": "no answer",
    "stalled": "no answer",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_mirror_that_fails_is_named_and_the_next_one_tried(server, monkeypatch, tmp_path, kind):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(download, "MOST_BYTES", 2 * len(CONTENT))
    assert f"file could not be downloaded (127.0.0.1:{server.server_address[1]}: {BAD[kind]}" in refused(
        tmp_path, f"{server.url}/{kind}"
    )
    assert fetched(tmp_path, f"{server.url}/{kind}", f"{server.url}/good") == CONTENT
    assert server.sent < ENDLESS_BYTES


@pytest.mark.parametrize("kind", ["good", "whole", "long", "nonsense", "vast", "unknown", "chunked"])
def test_a_mirror_that_sends_all_will_do_whatever_it_says_of_the_length(server, tmp_path, kind):
    assert fetched(tmp_path, f"{server.url}/{kind}") == CONTENT


def test_a_download_goes_on_with_the_next_mirror_where_it_was_cut_off(server, monkeypatch, tmp_path):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.5)
    mirrors = [f"{server.url}/{kind}" for kind in ("gone", "wrong", "cut", "stalled", "good")]
    assert fetched(tmp_path, *mirrors) == CONTENT
    ranges = [None, None, None, f"bytes={HALF}-", f"bytes={HALF + HALF // 2}-"]
    assert [asked for _, asked in server.requests] == ranges


@pytest.mark.parametrize(
    ("kind", "requests"),
    [
        ("good", [f"bytes={HALF}-"]),
        ("whole", [f"bytes={HALF}-"]),  # knows no ranges: sends all
        ("elsewhere", [f"bytes={HALF}-", None]),  # says 206 and sends the beginning
        ("chunked", [f"bytes={HALF}-"]),
    ],
)
def test_a_download_that_was_cut_off_goes_on_in_a_later_run(server, tmp_path, kind, requests):
    refused(tmp_path, f"{server.url}/cut")
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:HALF]
    server.requests.clear()
    assert fetched(tmp_path, f"{server.url}/{kind}") == CONTENT
    assert [asked for _, asked in server.requests] == requests


@pytest.mark.parametrize(
    ("part", "requests"),
    [(CONTENT, 1), (CONTENT + b"more", 2), (b"rubbish", 2), (b"", 1)],
    ids=["complete", "too long", "another", "empty"],
)
def test_what_lies_there_is_used_or_thrown_away(server, tmp_path, part, requests):
    """A server answers a range behind the end with 416; then the checksum decides."""
    (tmp_path / "file.part").write_bytes(part)
    assert fetched(tmp_path, f"{server.url}/good") == CONTENT
    assert len(server.requests) == requests


@pytest.mark.parametrize(
    "mirror",
    ["", "x", "http://", "http://[bad", "http://host:port/", "file:///gone", "ftp://127.0.0.1:9/", "http://\0/"],
)
def test_an_address_that_is_none_is_named(tmp_path, mirror):
    assert "file could not be downloaded (" in refused(tmp_path, mirror)


def test_without_mirrors(tmp_path):
    assert refused(tmp_path) == "file could not be downloaded (no mirrors are given)"


def test_a_password_is_not_shown(tmp_path):
    message = refused(tmp_path, "http://me:secret@127.0.0.1:9/x")
    assert "127.0.0.1:9: [Errno 111] Connection refused" in message
    assert "secret" not in message


def test_what_a_server_says_is_shown_without_what_a_terminal_obeys(server, monkeypatch, tmp_path):
    monkeypatch.setattr(Mirror, "do_GET", lambda self: self.wfile.write(b"HTTP/1.1 404 \x1b[2Jgone\r\n\r\n"))
    assert r"HTTP 404 \x1b[2Jgone" in refused(tmp_path, f"{server.url}/x")


def test_a_mirror_may_be_a_file(tmp_path):
    (tmp_path / "there").write_bytes(CONTENT)
    (tmp_path / "here").mkdir()
    assert fetched(tmp_path / "here", (tmp_path / "there").as_uri()) == CONTENT


def test_a_proxy_is_asked_in_place_of_the_mirror(server, monkeypatch, tmp_path):
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    assert fetched(tmp_path, "http://mirror.invalid/good") == CONTENT
    assert server.requests[0][0] == "http://mirror.invalid/good"


# No network


def test_without_network_the_message_says_what_to_do(published, tmp_path):
    with pytest.raises(DataError) as caught:
        cifar10(root=str(tmp_path), mirrors=["http://127.0.0.1:9/x", f"{published.url}/wrong"], **FACTS)
    message = str(caught.value)
    assert "\n" not in message
    assert "127.0.0.1:9: [Errno 111] Connection refused" in message
    assert "wrong checksum" in message
    assert f"Put cifar-10-python.tar.gz into {tmp_path}, or use dataset=shapes" in message
    assert not list(tmp_path.glob("*.gz"))


def test_where_packets_vanish_the_message_comes_within_five_seconds(silence, tmp_path):
    begun = time.monotonic()
    message = refused(tmp_path, *[f"http://127.0.0.1:{silence}/{number}" for number in range(5)])
    assert time.monotonic() - begun < 5
    assert message.count("no answer") == 5


def test_a_mirror_that_never_answers_is_passed_over(server, silence, tmp_path):
    begun = time.monotonic()
    assert fetched(tmp_path, f"http://127.0.0.1:{silence}/x", f"{server.url}/good") == CONTENT
    assert time.monotonic() - begun < 5


def test_a_mirror_behind_the_one_that_serves_is_not_waited_for(server, silence, monkeypatch, tmp_path):
    for seconds in ("CONNECT_SECONDS", "ANSWER_SECONDS"):
        monkeypatch.setattr(download, seconds, 60)
    begun = time.monotonic()
    assert fetched(tmp_path, f"{server.url}/good", f"http://127.0.0.1:{silence}/x") == CONTENT
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("silence", [(socket.AF_INET6, "::1")], indirect=True)
def test_a_host_whose_ipv6_leads_nowhere_is_reached_by_ipv4(server, silence, monkeypatch, tmp_path):
    both = [
        (socket.AF_INET6, socket.SOCK_STREAM, 0, "", ("::1", silence, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 0, "", server.server_address),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.5)
    assert fetched(tmp_path, "http://mirror.invalid/good") == CONTENT


NO_NAME_SERVER = """
import socket, sys, time
from pathlib import Path
from data.download import fetch
socket.getaddrinfo = lambda *_, **__: time.sleep(60)
begun = time.monotonic()
try:
    fetch(Path(sys.argv[1]), mirrors=["https://one.invalid/x", "https://two.invalid/x"], md5="")
except Exception as error:
    print(error, flush=True)
print(time.monotonic() - begun)
"""


@pytest.mark.slow
def test_a_name_server_that_never_answers_holds_up_neither_the_message_nor_the_end(command, tmp_path):
    ended = command("-c", NO_NAME_SERVER, str(tmp_path / "file"), cwd=ROOT, timeout=40)
    message, seconds = ended.stdout.splitlines()
    assert message == "file could not be downloaded (one.invalid: no answer; two.invalid: no answer)"
    assert float(seconds) < 5


# The disk


def test_a_full_disk_is_one_line(published, tmp_path):
    (tmp_path / "cifar-10-python.tar.gz.part").symlink_to("/dev/full")
    with pytest.raises(DataError) as caught:
        cifar10(root=str(tmp_path), mirrors=[f"{published.url}/good"], **FACTS)
    said = f"cifar-10-python.tar.gz cannot be stored and unpacked in {tmp_path}: {os.strerror(28)}"
    assert str(caught.value) == said


@pytest.mark.parametrize("root", ["file", "file/below", "nul\0", "~nobody-of-this-name"])
def test_a_place_where_nothing_can_be_kept_is_named(published, tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(DataError, match=root.split("/")[0].replace("\0", r"\\x00")) as caught:
        cifar10(root=root, mirrors=[f"{published.url}/good"], **FACTS)
    assert "\n" not in str(caught.value)
    assert published.requests == []


@pytest.mark.parametrize(
    "there", ["cifar-10-python.tar.gz.part", "cifar-10-python.tar.gz", "cifar-10-python.tar.gz.lock"]
)
def test_a_directory_where_a_file_should_be_is_one_line(published, tmp_path, there):
    (tmp_path / there).mkdir()
    with pytest.raises(DataError, match=f"cannot be stored and unpacked in {tmp_path}: Is a directory"):
        cifar10(root=str(tmp_path), mirrors=[f"{published.url}/good"], **FACTS)


# Several processes

READ = """
import sys
from data import cifar
from tests.support.archives import archive_bytes, as_published
root, mirror = sys.argv[1:3]
cifar.CIFAR10 = as_published(cifar.CIFAR10, archive_bytes(cifar.CIFAR10))
exec("".join(sys.argv[3:]))
print(len(cifar.cifar10(root=root, mirrors=[mirror], mean=[0.5] * 3, std=[0.2] * 3).train))
"""
KILLED_WHILE_UNPACKING = """
import os, signal, tarfile
copy, copied = tarfile.copyfileobj, []
def dying(*arguments, **options):
    copy(*arguments, **options)
    copied.append(arguments)
    if len(copied) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
tarfile.copyfileobj = dying
"""


def start(published, root: Path, kind: str, *first: str) -> subprocess.Popen:
    """A process that reads CIFAR-10 from the server and prints how many images there are to train on."""
    arguments = [str(root), f"{published.url}/{kind}", *first]
    return subprocess.Popen(
        [sys.executable, "-c", READ, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(happened, seconds: float = 60) -> None:
    """Until something is the case, which it has to be in time."""
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
def test_of_two_processes_one_downloads_and_the_other_says_that_it_waits(published, tmp_path):
    with start(published, tmp_path, "waiting") as first:
        wait_for(lambda: published.requests)
        with start(published, tmp_path, "waiting") as second:
            said = second.stderr.readline()
            assert said == "waiting for another process that prepares cifar-10-python.tar.gz\n"
            published.go_on.set()
            for process, more in ((first, ""), (second, "")):
                out, err = process.communicate(timeout=60)
                assert (process.returncode, out, err) == (0, "10\n", more)
    assert len(published.requests) == 1


@pytest.mark.slow
def test_who_is_killed_while_downloading_holds_up_nobody(published, tmp_path, capfd):
    with start(published, tmp_path, "stalled") as first:
        wait_for((tmp_path / "cifar-10-python.tar.gz.part").exists)
        first.kill()
        first.communicate()
    assert len(cifar10(root=str(tmp_path), mirrors=[f"{published.url}/good"], **FACTS).train) == 10
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_who_is_killed_while_unpacking_leaves_nothing_that_is_taken_for_the_data_set(published, tmp_path):
    with start(published, tmp_path, "good", KILLED_WHILE_UNPACKING) as first:
        first.communicate(timeout=60)
        assert first.returncode == -signal.SIGKILL
    folder, part = tmp_path / "cifar-10-batches-py", tmp_path / "cifar-10-batches-py.part"
    assert not folder.exists()
    assert len(list((part / folder.name).iterdir())) == 3
    assert len(cifar10(root=str(tmp_path), mirrors=[], **FACTS).train) == 10
    assert [path.name for path in tmp_path.glob("*batches*")] == [folder.name]


def test_a_data_set_that_is_there_is_read_without_lock(published, tmp_path):
    """It may lie where nothing can be written, or where file systems know no locks."""
    cifar10(root=str(tmp_path), mirrors=[f"{published.url}/good"], **FACTS)
    lock = tmp_path / "cifar-10-python.tar.gz.lock"
    lock.unlink()
    cifar10(root=str(tmp_path), mirrors=[], **FACTS)
    assert not lock.exists()
