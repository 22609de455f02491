"""Reads a streamed answer to its end while the service restarts, and prints what came as one JSON document."""

import http.client
import json
import socket
import subprocess
import sys

path, model, unit, tokens = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
connection = http.client.HTTPConnection("localhost", timeout=120)
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.settimeout(120)
connection.sock.connect(path)
body = {"model": model, "prompt": "ping", "max_tokens": tokens, "ignore_eos": True, "stream": True}
connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
response = connection.getresponse()
assert response.status == 200, response.status
seen, restarted, stopping, finish, usage = 0, False, 0, None, None
while line := response.readline():
    text = line.decode().strip().removeprefix("data: ")
    if not text:
        continue
    if text == "[DONE]":
        finish = f"{finish} and done"
        break
    event = json.loads(text)
    usage = event.get("usage") or usage
    for choice in event.get("choices", []):
        seen += 1
        finish = choice["finish_reason"] or finish
    if not restarted:
        subprocess.run(["systemctl", "restart", "--no-block", unit], check=True)
        restarted = True
    elif not stopping:
        state = subprocess.run(["systemctl", "is-active", unit], capture_output=True, text=True, check=False)
        stopping = seen if state.stdout.strip() == "deactivating" else 0
print(
    json.dumps({"events": seen, "finish": finish, "usage": usage, "while_stopping": seen - stopping if stopping else 0})
)
