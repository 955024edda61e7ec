"""Download a file from the first mirror that serves it, with resume, checksum and a lock between processes."""

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
MOST_BYTES = 1 << 29  # three times the size of CIFAR; a longer response is not the file
TIMEOUT_SECONDS = 10  # without data
CONNECT_SECONDS = 2  # per address; at most one IPv4 and one IPv6 address is tried
ANSWER_SECONDS = 4  # for all mirrors together, including DNS


def md5sum(path: Path) -> str:
    """MD5 of a file as 32 hexadecimal digits."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes; if another one holds it, print a message and wait.

    The system releases the lock when a process ends in any way. The lock file is not deleted: waiting processes have
    it open.
    """
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        tqdm.write(f"waiting for another process that prepares {lock.stem}", file=sys.stderr)
        held.acquire()
    try:
        yield
    finally:
        held.release()


class MirrorError(Exception):
    """A mirror did not send the file; the message says why."""


def fetch(target: Path, *, mirrors: Sequence[str], md5: str) -> None:
    """Download `target` from the first mirror that serves the right file.

    Data are written to `target` + ".part" and renamed when the checksum matches, so that `target` is never
    incomplete. An interrupted download is resumed, from the same mirror or the next. Raises DataError, in one line
    with the reason of each mirror, if all fail, and OSError if the file cannot be written.
    """
    part = target.with_name(target.name + ".part")
    answers, deadline = [_asked(url) for url in mirrors], time.monotonic() + ANSWER_SECONDS
    reasons = []
    for url, answer in zip(mirrors, answers, strict=True):
        host = _host(url)
        try:
            with _mirror_errors():
                answer.result(max(0.0, deadline - time.monotonic()))
            _complete(url, part, md5, label=f"{target.name} from {host}")
        except MirrorError as error:
            reasons.append(f"{host}: {error}")
        else:
            os.replace(part, target)
            return
    raise DataError(f"{target.name} could not be downloaded ({'; '.join(reasons) or 'no mirrors are given'})")


def _complete(url: str, part: Path, md5: str, label: str) -> None:
    """Complete `part` from `url`. Raises MirrorError; a remaining `part` can then be resumed."""
    resumed = True
    while resumed:
        resumed = part.exists()
        try:
            _append(url, part, label)
        except MirrorError:
            if part.exists() and md5sum(part) == md5:  # complete, although the mirror announced more bytes
                return
            raise
        if md5sum(part) == md5:
            return
        part.unlink()  # retry once from the start if an older part was resumed, which may be corrupt
    raise MirrorError("wrong checksum")


def _host(url: str) -> str:
    """The name of a mirror in messages: its host without credentials or, if there is none, the whole URL."""
    try:
        return urllib.parse.urlsplit(url).netloc.rpartition("@")[2] or url
    except ValueError:  # an invalid IPv6 address in brackets
        return url


def _asked(url: str) -> Future[None]:
    """Check in the background whether the host of a mirror can be reached.

    This runs in a daemon thread, since a DNS lookup cannot be interrupted.
    """
    answer: Future[None] = Future()

    def ask() -> None:
        try:
            _connect(url)
        except Exception as error:  # raised by `Future.result`
            answer.set_exception(error)
        else:
            answer.set_result(None)

    threading.Thread(target=ask, daemon=True).start()
    return answer


def _connect(url: str) -> None:
    """Connect to the host of `url`, or to its proxy, and disconnect. Raises OSError or ValueError."""
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if parts.hostname and proxy and not urllib.request.proxy_bypass(parts.hostname):
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
    if not parts.hostname:  # a file or an invalid URL: opening it will raise
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    addresses: dict[int, Any] = {}  # the first of each family, in the system's order
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
def _mirror_errors() -> Iterator[None]:
    """Convert errors of the connection to a mirror into MirrorError."""
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
    """Append the missing bytes of the file at `url` to `part`, with a progress bar.

    Raises MirrorError, and OSError from the disk.
    """
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "cifar-trainer"} | ({"Range": f"bytes={have}-"} if have else {})
    with _mirror_errors():
        try:
            # Not urlopen, which caches the proxy settings of its first call.
            opener, request = urllib.request.build_opener(), urllib.request.Request(url, headers=headers)
            response = opener.open(request, timeout=TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            if error.code == 416 and have:  # nothing is missing, or the part is longer than the file
                error.close()
                return  # the checksum decides
            raise
    with response:
        if response.status != 206:  # the server sends the file from the start
            have = 0
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() and len(length) < 20 else None
        with (
            open(part, "ab" if have else "wb") as file,
            tqdm(desc=label, initial=have, total=total, unit="B", unit_scale=True, disable=None) as bar,
        ):
            while have <= MOST_BYTES:
                with _mirror_errors():
                    chunk = response.read1(CHUNK_BYTES)
                if not chunk:
                    break
                file.write(chunk)
                have += len(chunk)
                bar.update(len(chunk))
    if total is not None and have < min(total, MOST_BYTES):
        raise MirrorError(f"the connection broke after {have:,} of {total:,} bytes")
