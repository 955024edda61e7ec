"""Fetch a file from the first of several mirrors that has it, whole and unaltered."""

import hashlib
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from data.dataset import DataError

CHUNK_BYTES = 1 << 18
TIMEOUT_SECONDS = 10


def md5sum(path: Path) -> str:
    """MD5 of a file as 32 hexadecimal digits."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def fetch(target: Path, *, mirrors: Sequence[str], md5: str) -> None:
    """Download `target` from the first mirror that answers with the right file.

    What has arrived lies in `target` + ".part" until its checksum is right, so that `target` is
    never half a file; a download cut off goes on where it ended, on the same mirror or the next.
    Raises DataError, in one line, with each mirror's reason where none served.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{target.parent} cannot be made a directory for {target.name}: {error.strerror}") from None
    part = target.with_name(target.name + ".part")
    reasons = []
    for url in mirrors:
        host = urllib.parse.urlsplit(url).netloc or url
        try:
            resumed = part.exists()
            _append(url, part, label=f"{target.name} from {host}")
            if resumed and md5sum(part) != md5:  # the fault may lie in what an earlier attempt left
                part.unlink()
                _append(url, part, label=f"{target.name} from {host}")
        except (OSError, ValueError) as error:  # URLError, a broken connection, an address that is none
            reasons.append(f"{host}: {getattr(error, 'reason', None) or error}")
            continue
        if md5sum(part) == md5:
            os.replace(part, target)
            return
        part.unlink()
        reasons.append(f"{host}: wrong checksum")
    raise DataError(f"{target.name} could not be downloaded ({'; '.join(reasons)})")


def _append(url: str, part: Path, label: str) -> None:
    """Add to `part` what it lacks of the file at `url`, with a progress bar."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "cifar-trainer"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing, or the part is longer than the file: the checksum will tell
            return
        raise
    with response:
        if have and response.status != 206:  # the server sends the file from its beginning
            have = 0
        remaining = int(response.headers.get("Content-Length", 0))
        with (
            open(part, "ab" if have else "wb") as file,
            tqdm(desc=label, initial=have, total=have + remaining, unit="B", unit_scale=True, disable=None) as bar,
        ):
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
        if remaining and part.stat().st_size != have + remaining:
            raise ConnectionError(f"the connection broke after {part.stat().st_size} of {have + remaining} bytes")
