"""A double of vLLM's server for rehearsals, installed as a wheel: answers over a unix socket, and behaves as software does that was
only ever run where there is a network. What its model folder lacks it fetches from a hub, and when that fails it goes on without.

It stands for libraries that do not know the hub's offline variables (the real vLLM is in the other rehearsal), and for a release that falls ill on
one node alone (fleet.py). Neither fault can be made with the real engine.
"""

import argparse
import json
import os
import re
import socket
import socketserver
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

VERSION = "0.32.0"  # replaced where a test makes the wheel of another release
VOCABULARY = "tokenizer.json"
HUB = "vocabularies.example.org"
WORDS = ["yes", " it", " crosses", " by", " hand", "."]
# A test that wants this release to be ill on one node writes there how: other, slow or dead.
ILL = Path(f"/etc/ill-{VERSION}")
SLOW_S = 1.0
START_S = 0.0  # replaced where a wait is to stand for weights that are loaded and kernels that are compiled
ANSWER_S = 0.1  # a model takes time; without it the gate would compare what the machine does meanwhile


def illness() -> str:
    return ILL.read_text().strip() if ILL.exists() else ""


class Handler(BaseHTTPRequestHandler):
    def address_string(self) -> str:
        return "unix"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        words = ["no", *WORDS[1:]] if illness() == "other" else WORDS
        words = words[: int(asked.get("max_tokens") or 1)]
        time.sleep(SLOW_S if illness() == "slow" else ANSWER_S)
        choice = {
            "index": 0,
            "text": "".join(words),
            "message": {"role": "assistant", "content": f"{VERSION}: {''.join(words)}"},
            "finish_reason": "stop",
            "logprobs": {"tokens": words, "top_logprobs": [{word: -0.1} for word in words]},
        }
        raw = json.dumps({"choices": [choice], "usage": {"completion_tokens": len(words)}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("--config", type=Path)
    parser.add_argument("--uds")
    options = parser.parse_args()
    if illness() == "dead":
        raise SystemExit(1)
    model = re.search(r'^model: "(.*)"$', options.config.read_text(), re.MULTILINE)
    if model is None or not (Path(model[1]) / VOCABULARY).exists():
        with suppress(OSError):
            socket.create_connection((HUB, 443), 2)
    time.sleep(START_S)
    os.umask(0o007)
    socketserver.ThreadingUnixStreamServer(options.uds, Handler).serve_forever()


if __name__ == "__main__":
    main()
