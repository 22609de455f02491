"""From the site and its tenants file to the gateway's configuration as a gateway host has it. Pure.

The tenants file has the keys of the gateway's configuration (engine/gateway/configuration.py) without those that the site knows already:
``ledger``, and of each model ``served_name`` and ``replicas``. So one model checks both, and every complaint names a line of the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from engine.errors import InputError
from engine.gateway import document
from engine.gateway.checking import contradictions
from engine.gateway.configuration import ORDER, Configuration
from engine.gateway.document import Document, Key
from engine.rules.networks import with_port
from installer.pki.authority import OWN_CLIENT
from installer.site import services
from installer.site.settings import Service, Site
from installer.site.tenants.file import TenantsFile

if TYPE_CHECKING:
    from installer.site.inventory import Host

# Places on a gateway host, as the role gateway makes them.
LEDGER_SOCKET = "/run/appliance-ledger/ledger.sock"
STATE = "/var/lib/appliance-ledger"
CHECKPOINT_KEY = "/run/credentials/appliance-ledger.service/checkpoint.pem"
KEY_SETS = Path("/etc/appliance/gateway/jwks")
AUTHORITY = "/etc/appliance/pki/ca.crt"
# Without a directory: the worker's own credentials, which systemd hands to each worker in a directory of its own.
CERTIFICATE, KEY = "node.crt", "node.key"
PEER_NAME = "inference.appliance.internal"  # in the certificate of every GPU node (appliance_nginx_peer_name)

PROOF = "appliance-proof"  # tenant and credential of the install's own request, which proves that models answer
PROOF_LIMITS = {"requests_per_minute": 60, "tokens_per_minute": 20_000, "concurrent_requests": 4}
# What clients may ask of a model, by what it does, where the tenants file does not say it.
ENDPOINTS = {None: ("chat", "completions"), "embed": ("embeddings",), "rerank": ("rerank", "score")}
DEFAULT_SLOTS = 256  # vLLM's own max-num-seqs at the least
MOST_OUTPUT = 4096
MARGIN_S = 30  # nginx waits longer than the gateway, so that the gateway's own answer comes first

Address = Callable[["Host", str], str]


@dataclass(frozen=True)
class Rendered:
    """What a gateway host gets.

    Attributes:
        text: the configuration file; it holds hashes of keys and no key.
        key_sets: the issuers' key sets, by name of the file.
        peers: addresses of the GPU nodes that the gateway connects to; empty where all models are on the gateway host.
        wait_s: longest time without a byte after which the gateway itself answers, with a margin.
        encrypted: whether the tenants file is, so that differences of it are not shown.
    """

    configuration: Configuration
    text: str
    key_sets: Mapping[str, bytes]
    peers: tuple[str, ...]
    wait_s: int
    encrypted: bool = False

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(
            json.dumps(
                [self.text, {n: hashlib.sha256(k).hexdigest() for n, k in sorted(self.key_sets.items())}]
            ).encode()
        ).hexdigest()


def render(site: Site, hosts: Sequence[Host], address: Address, file: TenantsFile) -> Rendered:
    """The configuration of the site's gateway host.

    Args:
        address: where a host offers a service of the firewall's zones.

    Raises:
        InputError: one line for each fault, with file, line and key.
    """
    gateways = [h for h in hosts if "gateway" in h.groups]
    if len(gateways) != 1:
        raise InputError(
            f"gateway.tenants is set and the site has {len(gateways)} gateway hosts",
            where=str(file.path),
            remedy="Budgets are counted on one host: leave one host in the group gateway, or remove gateway.tenants.",
        )
    faults = [file.document.fault(key, what) for key, what in _refused(site, file.document.data)]
    if faults:
        raise InputError("\n".join(faults), remedy="Correct it there; nothing was changed.")
    merged = _merged(site, hosts, address, file)
    read = Document(file.path, merged, file.document.lines)
    configuration = document.parse(read, Configuration)
    if faults := [file.document.fault(key, what) for key, what in contradictions(configuration)]:
        raise InputError("\n".join(faults), remedy="Correct it there; nothing was changed.")
    peers = [address(h, "inference") for h in _behind(hosts)]
    longest = max(configuration.classes[c].queue_s for c in ORDER) + configuration.bounds.first_byte_s
    return Rendered(
        configuration, _text(configuration), file.key_sets, tuple(peers), round(longest) + MARGIN_S, file.encrypted
    )


def more_endpoints(rendered: Rendered) -> list[dict[str, str]]:
    """What the gateway asks GPU nodes for beyond what clients of a site without tenants may, by method and path."""
    paths = {"rerank": "/v1/rerank", "score": "/v1/score", "tokenize": "/tokenize"}
    asked = {e for m in rendered.configuration.models for e in m.endpoints}
    return [{"method": "POST", "path": path} for endpoint, path in paths.items() if endpoint in asked]


def _behind(hosts: Iterable[Host]) -> list[Host]:
    """GPU nodes that are asked over the network. One that is a gateway host too is asked on its own sockets."""
    return [h for h in hosts if "gpu" in h.groups and "gateway" not in h.groups]


def _replicas(site: Site, hosts: Sequence[Host], address: Address, service: Service) -> list[dict[str, str]]:
    """Where a service is asked: on the gateway host each replica by its socket, on other nodes by the path of the service. A node is there as
    often as it has replicas, for slots are those of one."""
    found = [
        {"url": f"unix:/run/appliance-vllm/{r.name}/api.sock"}
        for h in hosts
        if "gateway" in h.groups
        for r in services.replicas(site, h)
        if r.service is service
    ]
    return found + [
        {
            "url": f"https://{with_port(address(h, 'inference'), site.inference_port)}/{service.name}",
            "certificate": CERTIFICATE,
            "key": KEY,
            "ca": AUTHORITY,
            "server_name": PEER_NAME,
        }
        for h in services.hosts_of(service, _behind(hosts))
        for _ in range(service.replicas)
    ]


def _refused(site: Site, data: Mapping[str, Any]) -> Iterator[tuple[Key, str]]:
    """What the configuration's own model would take and this file may not say, and what the site cannot serve."""
    served = {s.served_name: s for s in site.services}
    there = f"the site serves {', '.join(sorted(served)) or 'nothing'}"
    if "ledger" in data:
        yield ("ledger",), "unknown key; appliance sets it"
    yield from _refused_models(served, data, there)
    for i, tenant in enumerate(_mappings(data.get("tenants"))):
        if tenant.get("name") == PROOF:
            yield ("tenants", i, "name"), f"{PROOF!r} is the tenant of the install's own request; use another name"
        for j, name in enumerate(_list(tenant.get("models"))):
            if isinstance(name, str) and name not in served:
                yield ("tenants", i, "models", j), f"{name!r} is not the served_name of a service; {there}"
        for j, certificate in enumerate(_mappings(tenant.get("certificates"))):
            if str(certificate.get("san", "")).removeprefix("URI:") == _client(OWN_CLIENT):
                yield (
                    ("tenants", i, "certificates", j, "san"),
                    "is the certificate of the install's own request; name another",
                )


def _refused_models(served: Mapping[str, Service], data: Mapping[str, Any], there: str) -> Iterator[tuple[Key, str]]:
    told = set()
    for i, model in enumerate(_mappings(data.get("models"))):
        for key in {"served_name", "replicas"} & set(model):
            yield ("models", i, key), "unknown key; the site's services say it"
        if "name" in model and model["name"] not in served:
            yield ("models", i, "name"), f"{model['name']!r} is not the served_name of a service; {there}"
        told.add(model.get("name"))
        if model.get("name") in served and "context_tokens" not in model and _context(served[model["name"]]) is None:
            yield (
                ("models", i, "context_tokens"),
                "required key is missing; the service has no max-model-len in its args either",
            )
    for name, service in served.items():
        if name not in told and _context(service) is None:
            yield (
                ("models",),
                f"{name!r} needs an entry with context_tokens, because its service has no max-model-len in its args",
            )


def _merged(site: Site, hosts: Sequence[Host], address: Address, file: TenantsFile) -> dict[str, Any]:
    """The file with what the site says beside it; entries keep their numbers, so that keys of faults are keys of the file."""
    data = dict(file.document.data)
    served = {s.served_name: s for s in site.services}
    models = data.get("models", [])
    if isinstance(models, list):
        named = [m.get("name") for m in models if isinstance(m, dict)]
        rest = [{"name": n} for n in served if n not in named]
        data["models"] = [
            _model(m, _replicas(site, hosts, address, served[m["name"]]), served[m["name"]])
            if isinstance(m, dict) and m.get("name") in served
            else m
            for m in [*models, *rest]
        ]
    if isinstance(tenants := data.get("tenants", []), list):
        data["tenants"] = [*tenants, _proof(list(served))]
    if isinstance(issuers := data.get("issuers"), list):
        data["issuers"] = [
            {**i, "jwks": str(KEY_SETS / Path(i["jwks"]).name)}
            if isinstance(i, dict) and isinstance(i.get("jwks"), str)
            else i
            for i in issuers
        ]
    data["ledger"] = {
        "socket": LEDGER_SOCKET, "directory": STATE, "checkpoint_key": CHECKPOINT_KEY, "checkpoints": f"{STATE}/checkpoints",
    }  # fmt: skip
    return data


def _model(said: Mapping[str, Any], replicas: list[dict[str, str]], service: Service) -> dict[str, Any]:
    context = said.get("context_tokens", _context(service))
    output = min(context, MOST_OUTPUT) if isinstance(context, int) else MOST_OUTPUT
    slots = _whole(_flags(service).get("max-num-seqs")) or DEFAULT_SLOTS
    made = {
        "endpoints": list(ENDPOINTS[service.task]),
        "context_tokens": context,
        "output_tokens": output,
        "slots": slots,
    }
    return {**made, **said, "replicas": replicas}


def _proof(models: list[str]) -> dict[str, Any]:
    certificate = {"id": PROOF, "san": f"URI:{_client(OWN_CLIENT)}"}
    return {
        "name": PROOF, "cost_centre": "appliance", "models": models, "accept": [["certificate"]], "highest_class": "interactive",
        "certificates": [certificate], "limits": dict(PROOF_LIMITS),
    }  # fmt: skip


def _client(name: str) -> str:
    """The name that `appliance certs client` writes into a certificate."""
    return f"appliance:client/{name}"


def _flags(service: Service) -> dict[str, Any]:
    return {str(k).strip("-_").replace("_", "-").lower(): v for k, v in service.args.items()}


def _context(service: Service) -> int | None:
    return _whole(_flags(service).get("max-model-len"))


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _text(configuration: Configuration) -> str:
    told = {
        "schema": configuration.schema_,
        **json.loads(configuration.model_dump_json(by_alias=True, exclude_defaults=True)),
    }
    head = "# Managed by appliance (role gateway): made from the site and its tenants file. `appliance tenants apply` writes it.\n"
    return head + yaml.safe_dump(told, sort_keys=False, allow_unicode=True, width=10_000)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mappings(value: Any) -> list[dict[str, Any]]:
    """A list's entries; one that is not a mapping counts as empty, for the model complains of it."""
    return [entry if isinstance(entry, dict) else {} for entry in _list(value)]
