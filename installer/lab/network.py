"""The network of a lab: one bridge on which the nodes and the control host meet, and nothing leaves it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import IPv4Interface, IPv4Network, IPv6Network
from pathlib import Path

from engine.process import run
from installer.lab.plan import POOL, Names


def used() -> list[str]:
    """Networks of the pool that this host already has as addresses or routes."""
    addresses = json.loads(run(["ip", "-json", "-4", "address"], package="iproute2").stdout or "[]")
    found = [f"{i['local']}/{i['prefixlen']}" for a in addresses for i in a.get("addr_info", []) if "local" in i]
    routes = json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"]).stdout or "[]")
    found += [r["dst"] for r in routes if r.get("dst", "default") != "default"]
    return [f for f in found if IPv4Network(f, strict=False).overlaps(POOL)]


OUTWARD = "what nodes sent to beyond the lab"


def rules(names: Names, host_address: str, network6: IPv6Network | None = None) -> str:
    """The nft table of a lab: its nodes reach this host at one address of each family, and nothing is forwarded for them."""
    bridge, lab = names.bridge, IPv4Interface(f"{host_address}/24").network
    outward6 = (
        f"""
		iifname "{bridge}" ip6 daddr != {{ {network6}, fe80::/10, ff00::/8 }} counter comment "{OUTWARD}\""""
        if network6
        else ""
    )
    input6 = (
        f"""ip6 daddr {network6[1]} accept
		iifname "{bridge}" icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
		iifname "{bridge}" """
        if network6
        else ""
    )
    return f"""\
table inet {names.table} {{
	chain prerouting {{
		type filter hook prerouting priority -300; policy accept;
		iifname "{bridge}" ip daddr != {{ {lab}, 224.0.0.0/4, 255.255.255.255 }} counter comment "{OUTWARD}"{outward6}
	}}
	chain forward {{
		type filter hook forward priority -150; policy accept;
		iifname "{bridge}" oifname "{bridge}" accept
		iifname "{bridge}" counter drop comment "nodes reach the control host only"
		oifname "{bridge}" counter drop comment "only the control host reaches nodes"
	}}
	chain input {{
		type filter hook input priority -150; policy accept;
		iifname "{bridge}" ip daddr != {host_address} counter drop comment "no other address of this host"
		iifname "{bridge}" {input6}meta nfproto ipv6 counter drop
	}}
}}
"""


def left(names: Names) -> int:
    """Packets that nodes sent to beyond the lab so far, counted before the kernel decides that they go nowhere."""
    listing = json.loads(
        run(["nft", "--json", "list", "chain", "inet", names.table, "prerouting"], package="nftables").stdout
    )
    rules = [entry["rule"] for entry in listing["nftables"] if "rule" in entry]
    out = (e["counter"]["packets"] for r in rules if r.get("comment") == OUTWARD for e in r["expr"] if "counter" in e)
    return sum(out)


def up(names: Names, network: IPv4Network, environment: Mapping[str, str], network6: IPv6Network | None = None) -> None:
    """Make the table, then the bridge: no packet passes a bridge that has no rules yet. Without ``network6`` there is no IPv6."""
    run(["nft", "-f", "-"], stdin=rules(names, str(network[1]), network6), package="nftables", env=environment)
    bridge = ["type", "bridge", "stp_state", "0", "forward_delay", "0"]
    run(["ip", "link", "add", names.bridge, *bridge], env=environment)
    ipv6 = Path(f"/proc/sys/net/ipv6/conf/{names.bridge}/disable_ipv6")
    if ipv6.exists():
        ipv6.write_text("0\n" if network6 else "1\n")
    run(["ip", "address", "add", f"{network[1]}/{network.prefixlen}", "dev", names.bridge], env=environment)
    if network6:
        where = f"{network6[1]}/{network6.prefixlen}"
        run(["ip", "address", "add", where, "dev", names.bridge, "nodad"], env=environment)
    run(["ip", "link", "set", names.bridge, "up"], env=environment)


def down(names: Names) -> None:
    """Remove ports, bridge and table, whichever of them exist; the table last."""
    if _exists(names.bridge):
        for port in Path(f"/sys/class/net/{names.bridge}/brif").iterdir():
            run(["ip", "link", "delete", port.name], ok=(0, 1))  # the kernel may be removing it itself
        run(["ip", "link", "delete", names.bridge], ok=(0, 1))
    tables = run(["nft", "list", "tables", "inet"], package="nftables").stdout.split()
    if names.table in tables:
        run(["nft", "delete", "table", "inet", names.table])


def _exists(interface: str) -> bool:
    return Path(f"/sys/class/net/{interface}").exists()
