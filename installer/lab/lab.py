"""Make a lab, take it down, and clear away what dead owners left."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from engine import durable
from engine.errors import ApplianceError, InputError, ResourceError
from engine.process import run, which
from engine.report import Report, Silent
from installer.lab import cgroups, disk, network, node, rootfs, state
from installer.lab.plan import (
    RELEASES,
    Bind,
    Node,
    check_name,
    free_network,
    local_network,
    names_of,
    nodes_of,
    parse_binds,
)

END_S = 30.0  # how long killed processes may take to disappear


@dataclass(frozen=True)
class Lab:
    """A running lab: nodes that this host, and nobody else, reaches over SSH as root."""

    name: str
    bridge: str
    host_address: str
    prefix: str
    key: Path
    known_hosts: Path
    nodes: tuple[Node, ...]
    host_address6: str = ""

    def over_ipv6(self) -> Lab:
        """The same lab by its IPv6 addresses alone."""
        nodes = tuple(replace(one, address=one.address6) for one in self.nodes)
        return replace(self, host_address=self.host_address6, nodes=nodes)

    def sightings(self, node: Node) -> Path:
        """Where a watched node's attempts to reach something are written down, one JSON document a line."""
        return self.key.with_name(f"{node.name}.sightings")

    def ssh(self, address: str) -> list[str]:
        """The start of a command line that runs its remaining arguments on a node."""
        options = ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=5"]
        options += [f"UserKnownHostsFile={self.known_hosts}", "LogLevel=ERROR"]
        flat = [part for option in options for part in ("-o", option)]
        return ["ssh", "-F", "/dev/null", "-i", str(self.key), *flat, f"root@{address}"]


def up(
    name: str,
    *,
    nodes: int = 1,
    host_names: Sequence[str] = (),
    watch: bool = False,
    bind_ro: Sequence[str] = (),
    release: str = "bookworm",
    ipv6: bool = False,
    owner_pid: int | None = None,
    report: Report = Silent(),  # noqa: B008 - it has no state
) -> Lab:
    """Boot a lab and return when all its nodes answer over SSH.

    Args:
        host_names: of the nodes, instead of NAME-1, NAME-2 and so on; ``nodes`` does not count then.
        watch: write down what the nodes' processes try to reach, in the file `sightings` of each node.
        bind_ro: ``SRC:DST`` paths of this host that every node sees read-only.
        ipv6: give nodes an address of each family; without it the lab's network carries no IPv6 at all.
        owner_pid: the process that the lab belongs to; when it is gone, ``sweep`` takes the lab down.
            None: it stays until ``down``.

    Raises:
        InputError: the name is taken or wrong, or another argument is.
        ResourceError: not root, or a tool is missing.
        NodeError: a node did not come up.
    """
    check_name(name)
    if release not in RELEASES:
        raise InputError(f"{release!r} is not a release the lab knows", remedy=f"Choose one of {', '.join(RELEASES)}.")
    binds = parse_binds(bind_ro)
    nodes_of(name, host_names or nodes, IPv4Network("10.87.0.0/24"))
    owner = None if owner_pid is None else state.process(owner_pid)
    if owner_pid is not None and owner is None:
        raise InputError(f"the owner, process {owner_pid}, does not run")
    demand_root_and_tools()
    try:
        sweep(report=report)
    except ApplianceError as error:
        report.say(f"an abandoned lab stays: {error}")  # it is not in the way of this one
    lower = rootfs.ensure(release, report)
    with state.locked(state.lab_lock(name)):
        _make_room(name)
        record = _register(name, host_names or nodes, release, owner, ipv6=ipv6)
        try:
            return _build(record, lower, binds, watch, report)
        except BaseException:
            _remove(name)
            raise


def demand_root_and_tools() -> None:
    """Say early what a lab needs.

    Raises:
        ResourceError: not root, or a tool is missing.
    """
    if os.geteuid() != 0:
        raise ResourceError("a lab needs root: it mounts, makes a bridge and boots nodes", remedy="Run it with sudo.")
    tools = {
        "systemd-nspawn": "systemd-container", "mmdebstrap": "mmdebstrap", "nft": "nftables", "ip": "iproute2",
        "ssh": "openssh-client", "ssh-keygen": "openssh-client", "mount": "mount",
    }  # fmt: skip
    missing = [tool for tool in tools if which(tool) is None]
    if missing:
        packages = " ".join(dict.fromkeys(tools[m] for m in missing))
        raise ResourceError(f"{', '.join(missing)} is not installed", remedy=f"Install it: apt-get install {packages}")


def _make_room(name: str) -> None:
    there = state.read(name)
    if there is not None and there.ready and any(m.alive() for m in there.machines):
        raise InputError(
            f"lab {name} is already up", remedy=f"Choose another name, or take it down: appliance lab down {name}"
        )
    _remove(name)


def _register(
    name: str, nodes: int | Sequence[str], release: str, owner: state.Process | None, *, ipv6: bool
) -> state.State:
    maker = state.process(os.getpid())
    assert maker is not None  # noqa: S101 - this process runs
    prefix6 = local_network(name) if ipv6 else None
    with state.locked(state.address_lock()):
        records = [r for r in map(state.read, state.known()) if r is not None]
        prefix = free_network([*network.used(), *(r.prefix for r in records)])
        record = state.State(
            name=name,
            prefix=str(prefix),
            prefix6=str(prefix6 or ""),
            release=release,
            nodes=nodes_of(name, nodes, prefix, prefix6),
            maker=maker,
            owner=owner,
            cgroups=cgroups.plan(names_of(name).bridge),
            mark=secrets.token_hex(16),
        )
        record.write()
    return record


def _lab(record: state.State) -> Lab:
    return Lab(
        name=record.name,
        bridge=names_of(record.name).bridge,
        host_address=str(IPv4Network(record.prefix)[1]),
        prefix=record.prefix,
        key=record.directory / "id_ed25519",
        known_hosts=record.directory / "known_hosts",
        nodes=record.nodes,
        host_address6=str(IPv6Network(record.prefix6)[1]) if record.prefix6 else "",
    )


def _build(record: state.State, lower: Path, binds: Sequence[Bind], watch: bool, report: Report) -> Lab:
    lab, names, mark = _lab(record), names_of(record.name), record.environment
    task = f"lab {lab.name}"
    report.begin(task)
    report.say(f"{task}: network {lab.prefix}")
    network.up(names, IPv4Network(lab.prefix), mark, IPv6Network(record.prefix6) if record.prefix6 else None)
    report.say(f"{task}: disks")
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"lab {lab.name}", "-f", lab.key], env=mark)
    public = lab.key.with_suffix(".pub").read_text().strip()
    known = ""
    for one in lab.nodes:
        host_key = disk.prepare(
            lab.name,
            one,
            lower=lower,
            host_address=lab.host_address,
            host_address6=lab.host_address6,
            public_key=public,
            peers=lab.nodes,
            environment=mark,
        )
        known += ",".join(filter(None, (one.address, one.address6, one.name))) + f" {host_key}\n"
        report.say(f"{task}: disk of {one.name}")
    durable.write(lab.known_hosts, known)
    machines: list[state.Process] = []
    for number, one in enumerate(lab.nodes, start=1):
        machine = names.machine(number)
        groups = cgroups.make(record.cgroups, machine)
        log = record.directory / f"{one.name}.log"
        machines.append(
            node.start(
                lab.name,
                one,
                machine=machine,
                bridge=lab.bridge,
                binds=binds,
                cgroups=groups,
                environment=mark,
                log=log,
                sightings=lab.sightings(one) if watch else None,
            )
        )
        replace(record, machines=tuple(machines)).write()
        report.say(f"{task}: boot of {one.name}")
    for one, started in zip(lab.nodes, machines, strict=True):
        answer = node.wait_ready(
            one, started, lab.ssh(one.address), environment=mark, log=record.directory / f"{one.name}.log"
        )
        report.say(f"{task}: {one.name} at {one.address} is {answer}")
    replace(record, machines=tuple(machines), ready=True).write()
    report.end(task)
    return lab


def down(name: str, *, report: Report = Silent()) -> bool:  # noqa: B008 - it has no state
    """Take a lab down, in whatever condition it is; False when there was none.

    Raises:
        ApplianceError: something of it could not be removed.
    """
    check_name(name)
    demand_root_and_tools()
    with state.locked(state.lab_lock(name)):
        there = name in state.known() or bool(node.processes(name, {}))
        _remove(name)  # also when nothing is on record: what is named after the lab goes with it
    if there:
        report.say(f"lab {name} is down")
    return there


def _remove(name: str) -> None:
    """Remove all that belongs to a lab. Its record goes last, so that a killed removal can be repeated."""
    record, names = state.read(name), names_of(name)
    groups, mark = (record.cgroups, record.environment) if record else (cgroups.plan(names.bridge), {})
    deadline = time.monotonic() + END_S
    while pids := node.processes(name, mark) | cgroups.pids(groups):
        if time.monotonic() > deadline:
            raise ApplianceError(f"processes of lab {name} do not end: {sorted(pids)}", remedy="Look at them with ps.")
        node.kill(pids)
        time.sleep(0.02)
    disk.discard(name, names.machine_prefix)
    network.down(names)
    while not cgroups.remove(groups):
        if time.monotonic() > deadline:
            raise ApplianceError(f"control groups of lab {name} stay busy", where=", ".join(groups))
        time.sleep(0.02)
    place = state.RUN / name
    if place.is_dir():
        for file in place.iterdir():
            if file.name != "state.json":
                file.unlink()
        (place / "state.json").unlink(missing_ok=True)
        place.rmdir()


def sweep(*, report: Report = Silent()) -> list[str]:  # noqa: B008 - it has no state
    """Take down every lab that nobody is left to take down; return their names.

    Raises:
        ApplianceError: one could not be removed; the others were.
    """
    demand_root_and_tools()
    swept, errors = [], []
    for name in filter(_abandoned, state.known()):
        with state.locked(state.lab_lock(name)):
            if name not in state.known() or not _abandoned(name):
                continue  # somebody else was faster
            try:
                _remove(name)
            except ApplianceError as error:
                errors.append(error)
                continue
        swept.append(name)
        report.say(f"lab {name} had no owner left and is down")
    state.drop_stale_locks()
    if errors:
        raise errors[0]
    return swept


def _abandoned(name: str) -> bool:
    record = state.read(name)
    return record.orphaned() if record else not state.recorded(name)


def find(name: str) -> Lab | None:
    """The lab ``name`` if it is up."""
    record = state.read(name)
    return _lab(record) if record is not None and record.ready else None


def labs() -> list[tuple[Lab, bool]]:
    """All labs on record, and whether each is up."""
    records = [r for r in map(state.read, state.known()) if r is not None]
    return [(_lab(r), r.ready and all(m.alive() for m in r.machines)) for r in records]
