"""What was used and what it costs, from the audit log. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from engine.gateway.audit.chain import Record
from engine.gateway.configuration import Configuration, Price

BY = ("tenant", "project", "cost_centre", "model")


@dataclass
class Sum:
    """Requests and tokens of one group.

    Attributes:
        estimated_tokens: charged without a report of the model server, because a crash or a broken stream left none.
        aborted: requests that ended before their answer did; vLLM counts their tokens, and none of its per-request metrics has them.
    """

    requests: int = 0
    refused: int = 0
    aborted: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    aborted_tokens: int = 0
    estimated_tokens: int = 0
    charged_tokens: int = 0
    cost: float = 0.0

    def add(self, record: Record, price: Price) -> None:
        """Count one request."""
        self.requests += 1
        self.refused += record.get("outcome") == "refused"
        charged = record.get("charged_tokens") or 0
        self.charged_tokens += charged
        if record.get("estimated"):
            self.aborted += 1
            self.estimated_tokens += charged
            self.cost += charged * max(price.input_per_million, price.output_per_million) / 1e6
            return
        prompt, completion, cached = (record.get(f"{name}_tokens") or 0 for name in ("prompt", "completion", "cached"))
        self.prompt_tokens += prompt
        self.cached_tokens += cached
        self.completion_tokens += completion
        if record.get("outcome") in ("client_left", "ended", "upstream_error", "interrupted"):
            self.aborted += 1
            self.aborted_tokens += prompt + completion
        cheap = price.input_per_million if price.cached_per_million is None else price.cached_per_million
        self.cost += (
            (prompt - cached) * price.input_per_million + cached * cheap + completion * price.output_per_million
        ) / 1e6


@dataclass
class Report:
    """Sums by each of ``BY``, and of everything."""

    currency: str
    total: Sum = field(default_factory=Sum)
    groups: dict[str, dict[str, Sum]] = field(default_factory=lambda: {name: {} for name in BY})

    def dump(self) -> dict[str, Any]:
        """As JSON; costs have six digits behind the point."""

        def of(found: Sum) -> dict[str, Any]:
            return {**found.__dict__, "cost": round(found.cost, 6)}

        groups = {name: {key: of(found) for key, found in sorted(sums.items())} for name, sums in self.groups.items()}
        return {"currency": self.currency, "total": of(self.total), **groups}


def report(records: Iterable[Record], config: Configuration) -> Report:
    """Sum up the requests among ``records`` with the prices of ``config``."""
    prices = {m.name: m.price for m in config.models}
    made = Report(config.currency)
    for record in records:
        if record["kind"] != "request":
            continue
        price = prices.get(record.get("model", ""), Price())
        made.total.add(record, price)
        for name, sums in made.groups.items():
            key = record.get(name) or "-"
            if name == "project" and record.get("project"):
                key = f"{record['tenant']}/{key}"
            sums.setdefault(key, Sum()).add(record, price)
    return made
