"""The inventory of a site, read with Ansible's own eyes and validated before anything runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.errors import InputError
from engine.nvml import MAX_GPUS
from engine.rules import networks
from installer import yamlfile
from installer.site import ansiblelist, concealing, vllmflags, zones
from installer.site.connection import Connection, connection
from installer.site.rules import check, examples
from installer.site.rules.examples import Leftover
from installer.site.rules.given import Given
from installer.site.settings import Site
from installer.site.tenants import file as tenants_file
from installer.site.tenants.render import Rendered, render

__all__ = ["GROUPS", "Connection", "Host", "Inventory", "load", "variables"]

GROUPS = ("control", "gateway", "gpu", "monitoring")
SITE_FILE = Path("group_vars/all/site.yml")
HOSTS_FILE = ansiblelist.HOSTS_FILE
SECRET = ("baseline", "admins", "*", "password")  # the one place of the site that may come from a vault


@dataclass(frozen=True)
class Host:
    """A node as the inventory describes it.

    Attributes:
        groups: those of GROUPS that it is in.
        rack: where it stands, its variable ``appliance_rack``.
        member_of: every group of the inventory that it is in, the operator's own among them.
        gpus: how many GPUs it has, its variable ``appliance_gpus``; None where the inventory does not say.
    """

    name: str
    address: str
    groups: tuple[str, ...]
    rack: str = ""
    zone_addresses: Mapping[str, str] = field(default_factory=dict)
    member_of: tuple[str, ...] = ()
    gpus: int | None = None

    @property
    def place(self) -> zones.Place:
        return zones.Place(self.name, self.address, self.groups, self.zone_addresses)


@dataclass(frozen=True)
class Inventory:
    """A validated inventory.

    Attributes:
        variables: of every host, as written in the inventory; those of this product resolved.
        references: places within the site that come from a vault, and how Ansible is told of them.
        secrets: the decrypted values; in no error, log, plan or record.
        vault: environment by which a process of Ansible can decrypt them.
        leftovers: values from documentation, and flags that no known vLLM has; no faults, but hardly meant.
        tenants: the gateway's configuration; None where the site names no tenants.
    """

    path: Path
    hosts: tuple[Host, ...]
    site: Site
    connections: Mapping[str, Connection] = field(default_factory=dict)
    variables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    references: Mapping[tuple[str | int, ...], Any] = field(default_factory=dict)
    secrets: frozenset[str] = frozenset()
    vault: Mapping[str, str] = field(default_factory=dict)
    leftovers: tuple[Leftover, ...] = ()
    tenants: Rendered | None = None

    def shown(self) -> dict[str, Any]:
        """The site for a person or a file, without what comes from a vault and without values of environment variables."""
        return concealing.of_site(self._without_vault())

    def conceal(self, text: str) -> str:
        """A text that is kept or shown, without values of environment variables."""
        told = [s.environment for s in self.site.services] + [c.environment for c in self.site.containers or ()]
        return concealing.without(text, told)

    def _without_vault(self) -> dict[str, Any]:
        return self._with(dict.fromkeys(self.references, ansiblelist.HIDDEN))

    def handed(self) -> dict[str, Any]:
        """The site for Ansible: what comes from a vault as the inventory has it, so that it is never written down in the open."""
        return self._with(self.references)

    def without_vault(self) -> Site:
        """The site with nothing where something from a vault was: for a place that has not the site's secrets."""
        return Site.model_validate(self._with(dict.fromkeys(self.references, "")))

    def _with(self, values: Mapping[tuple[str | int, ...], Any]) -> dict[str, Any]:
        site = self.site.model_dump(mode="json")
        for place, value in values.items():
            inner: Any = site
            for step in place[:-1]:
                inner = inner[step]
            inner[place[-1]] = value
        return site

    @property
    def nodes(self) -> tuple[Host, ...]:
        """Hosts that something is installed on."""
        return tuple(h for h in self.hosts if h.groups != ("control",))

    def in_group(self, group: str) -> tuple[Host, ...]:
        return tuple(h for h in self.hosts if group in h.groups)

    def address(self, host: Host, service: str) -> str:
        """Where ``host`` offers ``service``: in the zone it lives in, or at the node's one address."""
        return zones.address_for(self.site.zones, service, host.place)


def load(path: Path) -> Inventory:
    """Read and validate.

    Raises:
        InputError: names the file, the line and the key, or the host, of every fault.
    """
    listing = ansiblelist.ask(path)
    try:
        return _validated(path, listing)
    except InputError as error:
        # Whatever a message repeats of the inventory, it is nothing that came out of a vault.
        what, where = (ansiblelist.without_secrets(text, listing.secrets) for text in (error.what, error.where))
        raise InputError(what, where=where, remedy=error.remedy) from None


def variables(path: Path) -> dict[str, dict[str, Any]]:
    """Every host's variables as Ansible merges them: those of this product resolved, others as they were written, without those that
    hold anything from a vault.

    Raises:
        InputError: Ansible cannot read the inventory.
    """
    listing = ansiblelist.ask(path)
    return {
        name: {k: v for k, v in _merged(told, listing.secrets).items() if not _holds(v, listing.secrets)}
        for name, told in listing.hosts.items()
    }


def _validated(path: Path, listing: ansiblelist.Listing) -> Inventory:
    hosts = _hosts(path, listing)
    site = _site(path, listing)
    connections = {h.name: connection(path, h.name, h.address, listing.hosts[h.name]) for h in hosts}
    _consistent(path, hosts, site)
    _zoned(path, hosts, site)
    given = Given(path, hosts, site, listing.hosts, {n: c.user for n, c in connections.items()})
    document = _document(path)
    check.demand(given, document)
    raw = {name: _merged(told, listing.secrets) for name, told in listing.hosts.items()}
    read = Inventory(path, hosts, site, connections, raw, listing.references, listing.secrets, listing.vault)
    told = {name: replace(host, resolved=_open(host, listing.secrets)) for name, host in listing.hosts.items()}
    flags = tuple(vllmflags.unknown(site, path / SITE_FILE, document))
    read = replace(read, leftovers=(*examples.left(path, hosts, told, read._without_vault(), document), *flags))
    return replace(read, tenants=_tenants(read)) if site.gateway.tenants else read


def tenants_path(path: Path, site: Site) -> Path | None:
    """The tenants file of a site; None where it names none."""
    if site.gateway.tenants is None:
        return None
    return (path if path.is_dir() else path.parent) / site.gateway.tenants


def _tenants(read: Inventory) -> Rendered | None:
    """The gateway's configuration, checked as a whole."""
    place = tenants_path(read.path, read.site)
    if place is None:
        return None
    return render(read.site, read.hosts, read.address, tenants_file.read(place, read.vault))


def _merged(told: ansiblelist.Told, secrets: frozenset[str]) -> dict[str, Any]:
    """All variables of a host; one that holds a secret is left as it was written."""
    return {**told.raw, **_open(told, secrets)}


def _open(told: ansiblelist.Told, secrets: frozenset[str]) -> dict[str, Any]:
    """The resolved variables of a host that hold no secret."""
    return {k: v for k, v in told.resolved.items() if not _holds(v, secrets)}


def _holds(value: Any, secrets: frozenset[str]) -> bool:
    text = json.dumps(value)
    return "__ansible_vault" in text or any(_quoted(secret) in text for secret in secrets if secret)


def _quoted(secret: str) -> str:
    """As it is written within JSON."""
    return json.dumps(secret)[1:-1]


def _hosts(path: Path, listing: ansiblelist.Listing) -> tuple[Host, ...]:
    members: dict[str, list[str]] = {}
    for group in GROUPS:
        for name in listing.groups.get(group, ()):
            members.setdefault(name, []).append(group)
    unknown = sorted(set(listing.hosts) - set(members))
    if unknown:
        raise InputError(
            f"{unknown[0]} is in none of the groups {', '.join(GROUPS)}",
            where=listing.hosts[unknown[0]].line or str(path),
            remedy="Put every host into at least one of them.",
        )
    if not members:
        raise InputError(
            "the inventory has no hosts",
            where=str(path / HOSTS_FILE if path.is_dir() else path),
            remedy=f"List hosts under the groups {', '.join(GROUPS)}.",
        )
    hosts = []
    for name, groups in sorted(members.items()):
        told = listing.hosts[name].resolved
        where = listing.hosts[name].line or str(path)
        address = networks.canonical(str(told.get("ansible_host", "")))
        if not address:
            raise InputError(f"{name} has no ansible_host", where=where, remedy="Give the address of the node.")
        named = told.get("appliance_zone_addresses", {})
        if not isinstance(named, dict):
            raise InputError(
                f"{name}: appliance_zone_addresses is not a mapping",
                where=listing.hosts[name].lines.get("appliance_zone_addresses") or where,
                remedy="Write ZONE: ADDRESS below it.",
            )
        zone_addresses = {str(zone): networks.canonical(str(value)) for zone, value in named.items()}
        gpus = told.get("appliance_gpus")
        if gpus is not None and (isinstance(gpus, bool) or not isinstance(gpus, int) or not 0 <= gpus <= MAX_GPUS):
            raise InputError(
                f"{name}: appliance_gpus is {gpus!r}",
                where=listing.hosts[name].lines.get("appliance_gpus") or where,
                remedy=f"Write how many GPUs the node has, a number from 0 to {MAX_GPUS}, or leave it out.",
            )
        member_of = tuple(sorted(g for g, members in listing.groups.items() if name in members))
        hosts.append(
            Host(name, address, tuple(groups), str(told.get("appliance_rack", "")), zone_addresses, member_of, gpus)
        )
    return tuple(hosts)


def _site(path: Path, listing: ansiblelist.Listing) -> Site:
    name, told = next(iter(listing.hosts.items()))
    if "appliance_site" not in told.resolved:
        raise InputError(
            "appliance_site is missing",
            where=str(path / SITE_FILE),
            remedy="Copy inventories/example/group_vars/all/site.yml and change it.",
        )
    resolved = told.resolved["appliance_site"]
    for other, theirs in listing.hosts.items():
        if theirs.resolved.get("appliance_site") != resolved:
            raise InputError(
                f"appliance_site is not the same for {name} and {other}",
                where=theirs.lines.get("appliance_site") or str(path / SITE_FILE),
                remedy="Give it once, in group_vars/all/site.yml, and use no variable there that differs between hosts.",
            )
    document = _document(path)
    _vaulted(path, listing, document)
    if document:
        # The person's file names the line; the values are those that Ansible will use.
        lines = {key[1:]: line for key, line in document.lines.items() if key[:1] == ("appliance_site",)}
        return yamlfile.parse(yamlfile.Document(document.path, resolved, lines), Site, schema="site")
    try:
        return Site.model_validate(resolved)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(map(str, fault["loc"]))
        raise InputError(
            f"appliance_site.{key}: {yamlfile.said(fault)}",
            where=str(path),
            remedy="`appliance schema site` prints what is allowed.",
        ) from error


def _document(path: Path) -> yamlfile.Document | None:
    """The file that most sites keep ``appliance_site`` in, for the lines of its keys."""
    file = path / SITE_FILE
    return yamlfile.positions(file) if file.is_file() else None


def _vaulted(path: Path, listing: ansiblelist.Listing, document: yamlfile.Document | None) -> None:
    """Refuse secrets in places that are shown in plans, reports and units, and those that Ansible could not be pointed to."""
    for place, told in listing.references.items():
        fits = len(place) == len(SECRET) and all(want in ("*", step) for want, step in zip(SECRET, place, strict=True))
        if fits and told is not None:
            continue
        dotted = ".".join(map(str, place))
        line = f"{document.path}:{document.line(('appliance_site', *place))}" if document else str(path)
        raise InputError(
            f"{dotted} comes from a vault" + ("" if fits else ", and plans, reports or units of nodes would show it"),
            where=line,
            remedy="Encrypt the value alone, with `ansible-vault encrypt_string`, or keep it in a variable of its own in an encrypted file."
            if fits
            else f"Write it in the open; only {'.'.join(SECRET)} may come from a vault.",
        )


def _consistent(path: Path, hosts: tuple[Host, ...], site: Site) -> None:
    gpu = [h for h in hosts if "gpu" in h.groups]
    gateways = [h for h in hosts if "gateway" in h.groups]
    twice = sorted({h.address for h in hosts if sum(o.address == h.address for o in hosts) > 1})
    if twice:
        raise InputError(
            f"two hosts have the address {twice[0]}",
            where=str(path),
            remedy="Give every node its own; one host may be in several groups.",
        )
    if site.services and not gpu:
        raise InputError(
            "services are to be served but no host is in the group gpu",
            where=str(path),
            remedy="Add a host to gpu, or remove the services.",
        )
    if sliced := next((s for s in site.services if s.mig and (not site.mig or "nvidia" not in s.devices)), None):
        raise InputError(
            f"the service {sliced.name} is to run on a MIG slice, but {'its devices do not name nvidia' if site.mig else 'mig.layout divides no GPU'}",
            where=str(path / SITE_FILE),
            remedy="Add mig.layout and devices: [nvidia], or remove mig from the service.",
        )
    if site.services and not gateways:
        raise InputError(
            "services are to be served but no host is in the group gateway",
            where=str(path),
            remedy="Add a host to gateway; a GPU node may be both.",
        )


def _zoned(path: Path, hosts: tuple[Host, ...], site: Site) -> None:
    """Refuse zones that contradict each other, the rest of the site or the hosts; every fault at once."""
    uses = [
        zones.Use(("management_sources",), site.management_sources, "ssh"),
        zones.Use(("client_sources",), site.client_sources, "gateway"),
        zones.Use(("control", "address"), (site.control.address,), "depot"),
        *(zones.Use(("egress", i), flow.destinations, zone=flow.zone) for i, flow in enumerate(site.egress)),
    ]
    document = _document(path)
    told = []
    for fault in zones.faults(site.zones, uses, [h.place for h in hosts]):
        dotted = ".".join(map(str, fault.key))
        if fault.host:
            where = f"{path / HOSTS_FILE}: {fault.host}: {dotted}"
        elif document:
            where = f"{document.path}:{document.line(('appliance_site', *fault.key))}: {dotted}"
        else:
            where = f"{path}: appliance_site.{dotted}"
        told.append(f"{where}: {fault.what}. {fault.remedy}")
    if told:
        raise InputError("\n".join(told), remedy="docs/firewall.md says what zones are.")
