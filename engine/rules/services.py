"""Served models: what the role vllm writes into a unit, an environment file and vLLM's configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from engine.rules.fault import Fault, Key, Rule

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
SERVED_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]*")
FLAG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
MEMORY = re.compile(r"([1-9][0-9]*[KMGT]?|[1-9][0-9]?%|100%)")

# Flags that the role sets itself, and flags that would open what it shuts: code or files from a request, other listeners,
# secrets in a file, answers in the journal.
REFUSED_ARGS = (
    "allow-credentials",
    "allowed-local-media-path",
    "api-key",
    "config",
    "enable-log-outputs",
    "enable-log-requests",
    "grpc-port",
    "hf-token",
    "host",
    "middleware",
    "model",
    "port",
    "root-path",
    "served-model-name",
    "shutdown-timeout",
    "ssl-certfile",
    "ssl-keyfile",
    "tool-parser-plugin",
    "reasoning-parser-plugin",
    "trust-remote-code",
    "trust-request-chat-template",
    "uds",
)


def services(given: Iterable[Mapping[str, Any]]) -> Iterator[Fault]:
    """What is wrong with the served models; keys begin with ``services`` and the number of the model."""
    for i, service in enumerate(given):
        yield from _service(("services", i), f"services entry {service.get('name')!r}", service)


def _service(key: Key, subject: str, service: Mapping[str, Any]) -> Iterator[Fault]:
    if not NAME.fullmatch(str(service.get("name", ""))):
        remedy = "use up to 31 lower-case letters, digits and dashes"
        yield Fault(Rule.VLLM_NAME, (*key, "name"), f"has the name {service.get('name')!r}", remedy, subject)
    if not SERVED_NAME.fullmatch(str(service.get("served_name", ""))):
        what = f"has the served_name {service.get('served_name')!r}"
        remedy = "use letters, digits, dots, dashes, slashes, colons and underscores, without spaces"
        yield Fault(Rule.VLLM_SERVED_NAME, (*key, "served_name"), what, remedy, subject)
    for flag in map(str, service.get("args") or {}):
        if not FLAG.fullmatch(flag):
            remedy = f"write vLLM's long flag without dashes in front, such as {_spelled(flag)}"
            yield Fault(Rule.VLLM_SPELLING, (*key, "args", flag), f"has the argument {flag!r}", remedy, subject)
        if _spelled(flag) in REFUSED_ARGS:
            what = f"has the argument {flag!r}, which the role sets itself or refuses"
            remedy = f"remove it; refused are {', '.join(REFUSED_ARGS)}"
            yield Fault(Rule.VLLM_REFUSED, (*key, "args", flag), what, remedy, subject)
    for name, value in (service.get("environment") or {}).items():
        if not VARIABLE.fullmatch(str(name)):
            remedy = "use upper-case letters, digits and underscores"
            yield Fault(
                Rule.VLLM_ENVIRONMENT, (*key, "environment", str(name)), f"has the variable {name!r}", remedy, subject
            )
        if "\n" in str(value) or "\r" in str(value):
            what = f"has a line break in the variable {name}"
            yield Fault(Rule.VLLM_LINE_BREAK, (*key, "environment", str(name)), what, "write it in one line", subject)
    memory = str(service.get("memory_max") or "")
    if memory and not MEMORY.fullmatch(memory):
        remedy = "write a number with K, M, G or T such as 64G, or a share such as 80%"
        yield Fault(Rule.VLLM_MEMORY, (*key, "memory_max"), f"has the memory_max {memory!r}", remedy, subject)


def _spelled(flag: str) -> str:
    """The flag as vLLM's command line spells it, which takes underscores for dashes."""
    return flag.strip("-_").replace("_", "-").lower() or "max-model-len"
