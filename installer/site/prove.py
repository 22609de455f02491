"""Proof from the outside: a real token through the whole mutual-TLS path, and a refusal without a certificate."""

from __future__ import annotations

import json
import ssl
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

from engine import chat, pooling, strictjson
from engine.rules.networks import with_port
from installer.site import controlpki
from installer.site.inventory import Inventory
from installer.site.settings import Service

ATTEMPT_S = 120.0  # one generation on a small CPU takes seconds; a stuck one is a failure
MAX_ANSWER = 1 << 20


@dataclass(frozen=True)
class Proof:
    """What one gateway answered. ``seconds`` is the time to the whole answer, ``endpoint`` what it was asked."""

    gateway: str
    service: str
    good: bool
    answer: str
    seconds: float
    refused_without_certificate: bool
    endpoint: str = chat.CHAT

    @property
    def remark(self) -> str:
        """What a person should know of how it was asked; empty for a chat, which is how clients ask."""
        return chat.WITHOUT if self.endpoint == chat.COMPLETIONS else ""


def all_services(inventory: Inventory, ca_dir: Path, ca_passphrase: Path, view: Path | None = None) -> list[Proof]:
    """Ask every gateway for every service, as a client would: for a chat, or where the model has no chat template for a completion.

    Args:
        view: directory of the release that nodes serve, whose models say it. Without it, or when it does not hold a model, a
            chat is asked for first, and a completion when the server says that it has no chat template.
    """
    with tempfile.TemporaryDirectory(prefix="appliance-proof-") as scratch:
        client = controlpki.proof_client(ca_dir, ca_passphrase, Path(scratch))
        return [
            _prove(
                gateway.name,
                f"https://{with_port(inventory.address(gateway, 'gateway'), inventory.site.gateway.port)}{below(inventory, service)}",
                service,
                client,
                _chats(view, service),
            )
            for gateway in inventory.in_group("gateway")
            for service in inventory.site.services
        ]


def below(inventory: Inventory, service: Service) -> str:
    """Where the paths of a service begin: below its own name; a site with one service has it below /v1 alone, as older releases do."""
    return f"/{service.name}" if len(inventory.site.services) > 1 else ""


def _chats(view: Path | None, service: Service) -> bool | None:
    """Whether the model of a service has a chat template; None where that cannot be known here."""
    folder = view / "content" / "models" / service.model if view else None
    try:
        return chat.folder_has_template(folder) if folder and folder.is_dir() else None
    except OSError:
        return None


def _prove(gateway: str, url: str, service: Service, client: controlpki.ClientTls, chats: bool | None) -> Proof:
    begin = time.monotonic()
    endpoint = pooling.ENDPOINTS[service.task] if service.task else chat.COMPLETIONS if chats is False else chat.CHAT
    try:
        try:
            answer = ask(url, endpoint, service.served_name, client.context())
        except NoTemplateError:
            if chats:  # its files say that it has one: that it does not work is a fault, and not a way to ask
                raise
            endpoint = chat.COMPLETIONS
            answer = ask(url, endpoint, service.served_name, client.context())
        good = bool(answer)
    except (OSError, ValueError, KeyError, IndexError, urllib3.exceptions.HTTPError) as error:
        answer, good = f"{type(error).__name__}: {error}", False
    took = round(time.monotonic() - begin, 2)
    refused = _refused(url, endpoint, service.served_name, client.context(with_certificate=False))
    return Proof(gateway, service.name, good and refused, answer, took, refused, endpoint)


class NoTemplateError(ValueError):
    """The server refuses a chat because the model has no chat template."""


def ask(url: str, endpoint: str, model: str, context: ssl.SSLContext) -> str:
    """One short answer of a model; returns its text.

    Args:
        url: https://HOST:PORT of the gateway, and where the paths of the service begin.
        endpoint: ``chat.CHAT``, ``chat.COMPLETIONS``, or one of ``pooling.ENDPOINTS``.

    Raises:
        NoTemplateError: a chat was asked for, and the model has no chat template.
        ValueError: the answer is not what the API promises.
        urllib3.exceptions.HTTPError, OSError: no answer.
    """
    words = "Say one word."
    task: pooling.Task = next((t for t, path in pooling.ENDPOINTS.items() if path == endpoint), "")
    body: dict[str, Any]
    if task:
        body = pooling.question(task, model, words)
    else:
        asked = {"messages": [{"role": "user", "content": words}]} if endpoint == chat.CHAT else {"prompt": words}
        body = {"model": model, **asked, "max_tokens": 4, "temperature": 0}
    pool = urllib3.PoolManager(ssl_context=context, retries=False, timeout=ATTEMPT_S)
    response = pool.request(
        "POST",
        url + endpoint,
        body=json.dumps(body),
        headers={"Content-Type": "application/json"},
        preload_content=False,
    )
    raw = response.read(MAX_ANSWER, decode_content=False)  # unpacked, a small answer may be a large one
    if response.status != 200:
        refusal = f"status {response.status}: {raw[:300].decode(errors='replace')}"
        if response.status == 400 and endpoint == chat.CHAT and b"chat template" in raw.lower():
            raise NoTemplateError(refusal)
        raise ValueError(refusal)
    return f"{pooling.values(task, raw)} numbers" if task else said(raw, endpoint)


def said(raw: bytes, endpoint: str = chat.CHAT) -> str:
    """The text of a chat, or of a completion, that holds at least one token.

    Raises:
        ValueError: it is none.
    """
    try:
        data = strictjson.loads(raw)
        tokens, choice = int(data["usage"]["completion_tokens"]), data["choices"][0]
        text = choice["message"]["content"] if endpoint == chat.CHAT else choice["text"]
        text = str(text or choice.get("finish_reason"))
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError("the answer is not that of a completion") from error
    if tokens < 1:
        raise ValueError("the answer holds no token")
    return text


def _refused(url: str, endpoint: str, model: str, context: ssl.SSLContext) -> bool:
    """The same request without a certificate must not be answered."""
    try:
        ask(url, endpoint, model, context)
    except (urllib3.exceptions.HTTPError, OSError, ValueError):
        return True
    return False
