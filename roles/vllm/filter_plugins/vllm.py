"""Filters of the role vllm."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from engine.placement import record
from engine.rules import services


def vllm_faults(given: Iterable[Mapping[str, Any]]) -> list[str]:
    """What is wrong with the served models, each as one sentence with the remedy."""
    return [fault.sentence("appliance_vllm_") for fault in services.services(given)]


def vllm_asks(given: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What replicas ask `appliance-engine placement` for; empty where none asks for GPUs or CPUs of its own."""
    asks = [
        {
            "name": s["name"],
            "service": s.get("service") or s["name"],
            "gpus": s.get("gpus") or 0,
            "cpus": s.get("cpus") or 0,
        }
        for s in given
    ]
    return [a for a in asks if a["gpus"] or a["cpus"]]


def vllm_places(said: str | None) -> dict[str, dict[str, Any]]:
    """What it answered, by replica; empty where it was not asked or could not say."""
    return {p["name"]: p for p in record.places(said.encode(), "appliance-engine placement")} if said else {}


def vllm_record(said: str | None) -> str:
    """The same as the text of the node's record; empty where there is none to be kept."""
    return json.dumps(json.loads(said), indent=1, sort_keys=True) + "\n" if said else ""


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "vllm_faults": vllm_faults,
            "vllm_asks": vllm_asks,
            "vllm_places": vllm_places,
            "vllm_record": vllm_record,
        }
