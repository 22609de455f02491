"""Proof from the outside: a real token through the whole mutual-TLS path, and a refusal without a certificate."""

from __future__ import annotations

import json
import ssl
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import urllib3

from engine import strictjson
from engine.rules.networks import with_port
from installer.site import controlpki
from installer.site.inventory import Inventory
from installer.site.settings import Service

ATTEMPT_S = 120.0  # one generation on a small CPU takes seconds; a stuck one is a failure
MAX_ANSWER = 1 << 20


@dataclass(frozen=True)
class Proof:
    """What one gateway answered. ``seconds`` is the time to the whole answer."""

    gateway: str
    service: str
    good: bool
    answer: str
    seconds: float
    refused_without_certificate: bool


def all_services(inventory: Inventory, ca_dir: Path, ca_passphrase: Path) -> list[Proof]:
    """Ask every gateway for every service, as a client would."""
    with tempfile.TemporaryDirectory(prefix="appliance-proof-") as scratch:
        client = controlpki.proof_client(ca_dir, ca_passphrase, Path(scratch))
        return [
            _prove(gateway.name, inventory.address(gateway, "gateway"), inventory.site.gateway.port, service, client)
            for gateway in inventory.in_group("gateway")
            for service in inventory.site.services
        ]


def _prove(gateway: str, address: str, port: int, service: Service, client: controlpki.ClientTls) -> Proof:
    begin = time.monotonic()
    url = f"https://{with_port(address, port)}/v1/chat/completions"
    try:
        answer = ask(url, service.served_name, client.context())
        good = bool(answer)
    except (OSError, ValueError, KeyError, IndexError, urllib3.exceptions.HTTPError) as error:
        answer, good = f"{type(error).__name__}: {error}", False
    took = round(time.monotonic() - begin, 2)
    refused = _refused(url, service.served_name, client.context(with_certificate=False))
    return Proof(gateway, service.name, good and refused, answer, took, refused)


def ask(url: str, model: str, context: ssl.SSLContext) -> str:
    """One short chat completion; returns its text.

    Raises:
        ValueError: the answer is not what the API promises.
        urllib3.exceptions.HTTPError, OSError: no answer.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Say one word."}],
        "max_tokens": 4,
        "temperature": 0,
    }
    pool = urllib3.PoolManager(ssl_context=context, retries=False, timeout=ATTEMPT_S)
    response = pool.request(
        "POST", url, body=json.dumps(body), headers={"Content-Type": "application/json"}, preload_content=False
    )
    raw = response.read(MAX_ANSWER, decode_content=False)  # unpacked, a small answer may be a large one
    if response.status != 200:
        raise ValueError(f"status {response.status}: {raw[:300].decode(errors='replace')}")
    return said(raw)


def said(raw: bytes) -> str:
    """The text of a chat completion that holds at least one token.

    Raises:
        ValueError: it is none.
    """
    try:
        data = strictjson.loads(raw)
        tokens, choice = int(data["usage"]["completion_tokens"]), data["choices"][0]
        text = str(choice["message"]["content"] or choice.get("finish_reason"))
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError("the answer is not that of a chat completion") from error
    if tokens < 1:
        raise ValueError("the answer holds no token")
    return text


def _refused(url: str, model: str, context: ssl.SSLContext) -> bool:
    """The same request without a certificate must not be answered."""
    try:
        ask(url, model, context)
    except (urllib3.exceptions.HTTPError, OSError, ValueError):
        return True
    return False
