"""A mirror on this machine for what downloads: it sends a file whole, cut off, with a fault in it, or slowly."""

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

PIECE_BYTES = 1 << 12


@dataclass
class Mirror:
    """Where it is, and what was asked for: the first words of the paths, one a request."""

    url: str
    requests: list[str] = field(default_factory=list)


@contextmanager
def mirror(content: bytes) -> Iterator[Mirror]:
    """Serves `content` under /whole/, /cut/ (the connection ends halfway), /wrong/ (another last byte), /slow/."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            how = self.path.split("/")[1]
            served.requests.append(how)
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
            body = content[:-1] + bytes([content[-1] ^ 1]) if how == "wrong" else content
            body = body[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            with suppress(OSError):  # the other side may be killed
                for place in range(0, len(body) // 2 if how == "cut" else len(body), PIECE_BYTES):
                    self.wfile.write(body[place : place + PIECE_BYTES])
                    time.sleep(0.01 if how == "slow" else 0)

        def log_message(self, *_: object) -> None:
            """Nothing: the table is what is printed."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Mirror(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
