"""A store of files on loopback that answers ranges: python range_server.py FOLDER LOG."""

from __future__ import annotations

import re
import sys
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class _Ranges(BaseHTTPRequestHandler):
    """Files of a folder, whole or by range, as a store serves them."""

    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, log: Path, *args: Any) -> None:
        self.folder, self.log = folder, log
        super().__init__(*args)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        path = self.folder / self.path.split("?")[0].lstrip("/")
        asked = self.headers.get("Range", "")
        with self.log.open("a") as file:
            file.write(f"{self.command} {self.path} {asked}\n")
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = path.read_bytes()
        total, wanted = len(body), re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
        self.send_response(206 if wanted else 200)
        if wanted:
            start, stop = int(wanted[1]), min(int(wanted[2] or total), total - 1)
            body = body[start : stop + 1]
            self.send_header("Content-Range", f"bytes {start}-{stop}/{total}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


if __name__ == "__main__":
    handler = partial(_Ranges, Path(sys.argv[1]), Path(sys.argv[2]))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
