"""Reads a streamed answer to its end while the service restarts, and prints what came as one JSON document."""

import http.client
import json
import socket
import subprocess
import sys
import time

path, model, unit, tokens = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
connection = http.client.HTTPConnection("localhost", timeout=120)
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.settimeout(120)
connection.sock.connect(path)
body = {"model": model, "prompt": "ping", "max_tokens": tokens, "ignore_eos": True, "stream": True}
connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
response = connection.getresponse()
assert response.status == 200, response.status
seen, restarted, finish, usage = 0, 0.0, None, None
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
        restarted = time.monotonic()
went_on = time.monotonic() - restarted
print(json.dumps({"events": seen, "finish": finish, "usage": usage, "went_on_s": round(went_on, 2)}))
