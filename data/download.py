"""Fetch a file from the first of several mirrors that has it, whole and unaltered, one process at a time."""

import concurrent.futures
import hashlib
import http.client
import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from data.dataset import DataError

CHUNK_BYTES = 1 << 18
MOST_BYTES = 1 << 29  # three times CIFAR: what sends more does not send what was asked for
TIMEOUT_SECONDS = 10  # in which nothing comes
CONNECT_SECONDS = 2  # for one address; a host has at most one that is asked of each kind, IPv4 and IPv6
ANSWER_SECONDS = 4  # for all mirrors together, with the look-up of their names


def md5sum(path: Path) -> str:
    """MD5 of a file as 32 hexadecimal digits."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """In this context no other process is in one with the same lock; where one is, say so once and wait.

    The system takes the lock from a process that ends in any way. The file stays: whoever waits has it open.
    """
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        tqdm.write(f"waiting for another process that is at {lock.stem}", file=sys.stderr)
        held.acquire()
    try:
        yield
    finally:
        held.release()


class MirrorError(Exception):
    """A mirror did not send what was asked for; the message says why."""


def fetch(target: Path, *, mirrors: Sequence[str], md5: str) -> None:
    """Download `target` from the first mirror that answers with the right file.

    What has arrived lies in `target` + ".part" until its checksum is right, so that `target` is
    never half a file; a download cut off goes on where it ended, on the same mirror or the next.
    Raises DataError, in one line, with each mirror's reason where none served, and OSError where
    the file cannot be written.
    """
    part = target.with_name(target.name + ".part")
    answers, deadline = [_asked(url) for url in mirrors], time.monotonic() + ANSWER_SECONDS
    reasons = []
    for url, answer in zip(mirrors, answers, strict=True):
        host = _host(url)
        try:
            with _speaking():
                answer.result(max(0.0, deadline - time.monotonic()))
            _complete(url, part, md5, label=f"{target.name} from {host}")
        except MirrorError as error:
            reasons.append(f"{host}: {error}")
        else:
            os.replace(part, target)
            return
    raise DataError(f"{target.name} could not be downloaded ({'; '.join(reasons) or 'no mirrors are given'})")


def _complete(url: str, part: Path, md5: str, label: str) -> None:
    """Make `part` the file at `url`, out of what there is of it. Raises MirrorError; then what is left is of use."""
    resumed = True
    while resumed:
        resumed = part.exists()
        try:
            _append(url, part, label)
        except MirrorError:
            if part.exists() and md5sum(part) == md5:  # all there, though the mirror had promised more
                return
            raise
        if md5sum(part) == md5:
            return
        part.unlink()  # and once more, if something was there before: the fault may lie in that
    raise MirrorError("wrong checksum")


def _host(url: str) -> str:
    """What to call a mirror: its host, without a password; where there is none, the whole address."""
    try:
        return urllib.parse.urlsplit(url).netloc.rpartition("@")[2] or url
    except ValueError:  # brackets that are no IPv6 address
        return url


def _asked(url: str) -> Future[None]:
    """Whether the host of a mirror can be reached, to be known later; all are asked at once.

    In a thread of its own that nobody waits for at the end: a look-up of a name cannot be cut short.
    """
    answer: Future[None] = Future()

    def ask() -> None:
        try:
            _connect(url)
        except Exception as error:  # it is raised where the answer is asked for
            answer.set_exception(error)
        else:
            answer.set_result(None)

    threading.Thread(target=ask, daemon=True).start()
    return answer


def _connect(url: str) -> None:
    """Connect to the host of `url`, or to the proxy before it, and leave again. Raises OSError or ValueError."""
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if parts.hostname and proxy and not urllib.request.proxy_bypass(parts.hostname):
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
    if not parts.hostname:  # a file, or no address at all: opening it will tell
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    addresses: dict[int, Any] = {}  # the first of each kind, in the system's order
    for family, _, _, _, address in socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM):
        addresses.setdefault(family, address)
    for family, address in addresses.items():
        try:
            with socket.socket(family, socket.SOCK_STREAM) as connection:
                connection.settimeout(CONNECT_SECONDS)
                connection.connect(address)
                return
        except OSError as error:
            failure = error
    raise failure


@contextmanager
def _speaking() -> Iterator[None]:
    """Whatever goes wrong between here and a mirror, as a MirrorError."""
    try:
        yield
    except (TimeoutError, concurrent.futures.TimeoutError):
        raise MirrorError("no answer") from None
    except urllib.error.HTTPError as error:
        error.close()
        raise MirrorError(f"HTTP {error.code} {error.reason}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise MirrorError("no answer" if isinstance(reason, TimeoutError) else str(reason) or repr(reason)) from None


def _append(url: str, part: Path, label: str) -> None:
    """Add to `part` what it lacks of the file at `url`, with a progress bar.

    Raises MirrorError, and OSError of the disk.
    """
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "cifar-trainer"} | ({"Range": f"bytes={have}-"} if have else {})
    with _speaking():
        try:
            # Not urlopen, which keeps to the proxy that was set when it was first called.
            opener, request = urllib.request.build_opener(), urllib.request.Request(url, headers=headers)
            response = opener.open(request, timeout=TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            if error.code == 416 and have:  # nothing is missing, or the part is longer than the file
                error.close()
                return  # the checksum will tell
            raise
    with response:
        if response.status != 206:  # the server sends the file from its beginning
            have = 0
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() and len(length) < 20 else None
        with (
            open(part, "ab" if have else "wb") as file,
            tqdm(desc=label, initial=have, total=total, unit="B", unit_scale=True, disable=None) as bar,
        ):
            while have <= MOST_BYTES:
                with _speaking():
                    chunk = response.read1(CHUNK_BYTES)
                if not chunk:
                    break
                file.write(chunk)
                have += len(chunk)
                bar.update(len(chunk))
    if total is not None and have < min(total, MOST_BYTES):
        raise MirrorError(f"the connection broke after {have:,} of {total:,} bytes")
