"""A double of vLLM's server for rehearsals, installed as a wheel: answers over a unix socket, and behaves as software does that was
only ever run where there is a network. What its model folder lacks it fetches from a hub, and when that fails it goes on without.

It stands for libraries that do not know the hub's offline variables; the real vLLM is in the other rehearsal.
"""

import argparse
import json
import os
import re
import socket
import socketserver
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

VOCABULARY = "tokenizer.json"
HUB = "vocabularies.example.org"


class Handler(BaseHTTPRequestHandler):
    def address_string(self) -> str:
        return "unix"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        choice = {
            "index": 0,
            "text": "yes",
            "message": {"role": "assistant", "content": "yes"},
            "finish_reason": "stop",
        }
        raw = json.dumps({"choices": [choice], "usage": {"completion_tokens": 1}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    parser.add_argument("--uds")
    options = parser.parse_args()
    model = re.search(r'^model: "(.*)"$', options.config.read_text(), re.MULTILINE)
    if model is None or not (Path(model[1]) / VOCABULARY).exists():
        with suppress(OSError):
            socket.create_connection((HUB, 443), 2)
    os.umask(0o007)
    socketserver.ThreadingUnixStreamServer(options.uds, Handler).serve_forever()


if __name__ == "__main__":
    main()
