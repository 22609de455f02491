"""A serving site's later life on real nodes: status, rotation under load, the support bundle, uninstall, and installed again."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from installer.lab.lab import down, up
from tests.demo import Demo
from tests.nodes.daytwosite import EDGE, MODEL, Site, snapshot
from tests.nodes.underload import STREAMS, load
from tests.planted import Secret, planted, seen

pytestmark = pytest.mark.nodes

# What a package leaves when it is removed and not purged, and what dpkg and the system write about its coming and going.
LEFTOVERS = (
    " /etc/nginx", " /etc/default/nginx", " /etc/init.d/nginx", " /etc/logrotate.d/nginx", " /etc/ufw", " /etc/rc", " /etc/nftables.conf",
    " /etc/ld.so.cache", " /etc/passwd", " /etc/group", " /etc/shadow", " /etc/gshadow", " /etc/subuid", " /etc/subgid", " /var/lib/ucf", " /var/lib/nginx",
    " /var/lib/python", " /usr/share/python3", " /var/lib/pam", " /etc/apt", " /var/lib/apt", " /var/www", " /var/lib/appliance/packages.log", " /usr/lib/python3",
)  # fmt: skip
OPERATORS = {
    "/etc/appliance/operators-note.txt": "ours, says the operator\n",
    "/var/lib/appliance/backup/keep": "do not touch\n",
    "/etc/nginx/sites-enabled/operator": "# a site of the operator\n",
    "/opt/model_double.py": "",
}


@pytest.fixture(scope="module")
def site(demo: Demo) -> Iterator[Site]:
    work = demo.work / "daytwo"
    work.mkdir()
    lab = up(f"test-{secrets.token_hex(3)}", nodes=2, owner_pid=os.getpid())
    made = Site(demo, lab, work)
    try:
        made.write()
        made.take_in()
        made.on(EDGE, "systemctl is-system-running --wait", ok=(0, 1))
        made.before = snapshot(made, EDGE)
        made.first = made.install()
        made.edges()
        yield made
    finally:
        down(lab.name)


def serials(site: Site) -> list[str]:
    return [
        site.on(n, "sha256sum < /etc/appliance/pki/node.key; sha256sum < /etc/appliance/pki/node.crt")
        for n in (EDGE, MODEL)
    ]


def rotate(site: Site, *words: str, ok: tuple[int, ...] = (0,)) -> dict[str, Any]:
    places: list[str | Path] = ["--dir", site.work / "ca", "--runs", site.work / "runs"]
    told: dict[str, Any] = site.appliance("certs", "rotate", "-i", site.inventory, *places, *words, ok=ok)
    return told


def status(site: Site, ok: tuple[int, ...] = (0,)) -> dict[str, Any]:
    told: dict[str, Any] = site.appliance(
        "status", "-i", site.inventory, *site.places, "--site-keys", site.work / "site", ok=ok
    )
    return told


# The tests below follow one site through its life; pytest runs them in this order.


def test_status_says_what_is_so(site: Site) -> None:
    told = status(site)
    assert told["good"] and told["control"]["proof"] == "signed by this site"
    for node in told["nodes"]:
        assert node["release"]["current"] == "demo-1.0.0" and node["firewall"]["loaded"] == "active"
        assert {u["name"]: u["active"] for u in node["units"]}["appliance-nginx.service"] == "active"
        assert node["days_left"]["node.crt"] == 364 and node["days_left"]["ca.crt"] > 3600
        assert node["disks"][0]["free"] > 0 and node["troubles"] == {}
    refused = sum(told["nodes"][EDGE]["firewall"]["refused"].values())
    site.on(EDGE, "timeout 1 bash -c '</dev/tcp/192.0.2.1/443'", ok=(1, 124))
    assert sum(status(site)["nodes"][EDGE]["firewall"]["refused"].values()) > refused


def test_an_install_tells_what_each_node_measured_of_the_ways_out(site: Site) -> None:
    assert {w["node"] for w in site.first["egress"]} == {site.node(EDGE), site.node(MODEL)}
    for ways in site.first["egress"]:
        assert ways["measured"] and ways["good"] and ways["problems"] == [], ways
        assert ways["tried"] >= 10 and ways["tried"] == ways["refused"] + ways["unroutable"] and ways["refused"] > 0
    assert site.first["phases_s"]["egress"] >= 0


def test_status_names_what_is_wrong(site: Site) -> None:
    site.on(
        EDGE,
        "systemctl stop appliance-firewall; nft delete table inet appliance; touch /run/reboot-required; echo linux-image > /run/reboot-required.pkgs",
    )
    site.on(
        MODEL,
        "systemd-run --unit=appliance-broken false; sleep 0.3; cp -a /etc/appliance/pki/node.crt /root/; echo garbage > /etc/appliance/pki/node.crt",
    )
    try:
        told = status(site, ok=(5,))
        wrong = {f["check"]: f for f in told["nodes"][EDGE]["findings"]}
        assert (
            wrong["units"]["what"] == "appliance-firewall.service is inactive"
            and "foreign" in wrong["firewall"]["what"]
        )
        assert "linux-image" in wrong["reboot"]["what"] and wrong["reboot"]["severity"] == "warn"
        other = {f["check"]: f["what"] for f in told["nodes"][MODEL]["findings"]}
        assert (
            other["units"].startswith("appliance-broken.service has failed")
            and "node.crt is missing" in other["certificates"]
        )
    finally:
        site.on(EDGE, "rm /run/reboot-required*; systemctl start appliance-firewall")
        site.on(MODEL, "systemctl reset-failed; mv /root/node.crt /etc/appliance/pki/")
    assert status(site)["good"]


def test_an_unreachable_node_is_named_and_the_others_are_shown(site: Site) -> None:
    hosts = site.inventory / "hosts.yml"
    good = hosts.read_text()
    hosts.write_text(
        good.replace(site.lab.nodes[MODEL].address, site.lab.nodes[MODEL].address.rsplit(".", 1)[0] + ".250")
    )
    try:
        told = status(site, ok=(5,))
        assert "cannot be reached over SSH" in told["nodes"][MODEL]["findings"][0]["what"]
        assert told["nodes"][EDGE]["good"]
    finally:
        hosts.write_text(good)


def test_new_keys_everywhere_cut_no_stream_and_fail_no_request(site: Site) -> None:
    before = serials(site)
    with load(site, site.client("team-a")) as during:
        during.more()
        done = rotate(site)
        during.more()
    assert (during.cut, during.failed) == ([], []) and during.asked > 100
    assert all(set(a.split()) & set(b.split()) <= {"-"} for a, b in zip(before, serials(site), strict=True))
    assert set(done["nodes"]) == {n.name for n in site.lab.nodes}
    assert "0640 root:appliance-tls" in site.on(EDGE, "stat -c '%04a %U:%G' /etc/appliance/pki/node.key")
    assert site.on(EDGE, "ls -A /etc/appliance/pki").split() == ["ca.crt", "crl.pem", "node.crt", "node.key"]
    print(f"rotate: {during.asked} requests, {during.again} on a fresh connection, 0 failed; {STREAMS} streams, 0 cut")


def test_a_certificate_that_the_edge_cannot_take_is_taken_back(site: Site) -> None:
    """The edge's configuration is broken, so its reload is refused: the old pair must be there again, and served."""
    before = serials(site)
    site.on(EDGE, "cp -a /etc/appliance/nginx/nginx.conf /root/; echo 'nonsense;' >> /etc/appliance/nginx/nginx.conf")
    try:
        told = rotate(site, "--node", site.node(EDGE), ok=(5,))
        assert told["error"]["where"] == site.node(EDGE) and "appliance-nginx" in told["error"]["what"]
        assert serials(site) == before
    finally:
        site.on(EDGE, "mv /root/nginx.conf /etc/appliance/nginx/nginx.conf")
    rotate(site, "--node", site.node(EDGE))
    assert serials(site)[EDGE] != before[EDGE] and serials(site)[MODEL] == before[MODEL]


@pytest.mark.slow
def test_another_authority_cuts_no_stream_and_fails_no_request(site: Site) -> None:
    if not (site.work / "clients/team-a").exists():
        site.client("team-a")
    tenant = site.client("team-b")
    with load(site, tenant) as during:
        waits = rotate(site, "--ca")
        assert waits["stage"] == "clients" and waits["waiting"] == ["team-a", "team-b"]
        site.appliance("certs", "revoke", "team-a", "--dir", site.work / "ca")
        before = serials(site)
        site.install("--limit", site.node(EDGE))  # in between: must neither take back nor go on
        assert serials(site) == before
        again = site.work / "again"
        site.appliance("certs", "client", "team-b", "--dir", site.work / "ca", "--out", again / "team-b")
        during.files = again / "team-b"
        during.more()
        during.again = 0
        assert rotate(site, "--ca")["stage"] == "leaves"
        assert rotate(site, "--ca", "--drop-old")["stage"] == "none"
        during.more()
    assert (during.cut, during.failed) == ([], []) and during.asked > 100
    old = site.connect(tenant)
    with pytest.raises(OSError, match="certificate"):
        old.request("GET", "/healthz")
    assert status(site)["good"]
    held = x509.load_pem_x509_certificate(site.on(EDGE, "cat /etc/appliance/pki/node.crt").encode())
    assert "site CA 2" in held.issuer.rfc4514_string()
    print(f"authority: {during.asked} requests, 0 failed; {STREAMS} streams, 0 cut")


def plant(site: Site, all_of: list[Secret]) -> None:
    """Where people and programs leave them: files of ours, the journal of a unit, its environment, nginx, a unit file, the inventory."""
    by_place: dict[str, list[str]] = {}
    for secret in all_of:
        by_place.setdefault(secret.where, []).append(secret.line)
    texts = {where: "\n".join(lines) + "\n" for where, lines in by_place.items()}
    for name, text in {
        "/etc/appliance/planted.conf": texts["file"],
        "/etc/appliance/vllm/planted.env": texts["environment"],
        "/etc/appliance/nginx/planted.conf": texts["nginx"],
        "/run/planted.journal": texts["journal"],
        "/etc/systemd/system/appliance-planted.service": "[Service]\nExecStart=/bin/cat /run/planted.journal\n"
        "EnvironmentFile=/etc/appliance/vllm/planted.env\n" + texts["unit"],
    }.items():
        command = [*site.lab.ssh(site.lab.nodes[EDGE].address), f"mkdir -p $(dirname {name}) && cat > {name}"]
        subprocess.run(command, input=text, text=True, check=True, timeout=300)
    site.on(EDGE, "systemctl daemon-reload; systemctl start appliance-planted; journalctl --sync")
    hosts = yaml.safe_load((site.inventory / "hosts.yml").read_text())
    for line in by_place["inventory"]:
        name, _, value = line.partition(": ")
        hosts["all"]["children"]["gateway"]["hosts"][site.node(EDGE)][name] = value
    (site.inventory / "hosts.yml").write_text(yaml.safe_dump(hosts))
    runs = sorted((site.work / "runs").glob("*/report.json"))[-1]
    report = json.loads(runs.read_text())
    report["failures"] = [
        {"node": "x", "task": "t", "role": "r", "reason": s.line, "unreachable": False} for s in all_of
    ]
    runs.write_text(json.dumps(report, indent=1))


def test_a_support_bundle_holds_what_is_useful_and_none_of_fifty_planted_secrets(site: Site, tmp_path: Path) -> None:
    all_of = planted(secrets.randbelow(1 << 30))
    hosts = (site.inventory / "hosts.yml").read_text()
    plant(site, all_of)
    out = tmp_path / "fault.tar.gz"
    words: list[str | Path] = [
        "doctor",
        "-i",
        site.inventory,
        "--out",
        out,
        *site.places,
        "--site-keys",
        site.work / "site",
    ]
    told = site.appliance(*words)
    there = site.on(EDGE, "cat /etc/appliance/planted.conf /run/planted.journal")
    site.on(
        EDGE, "rm /etc/appliance/planted.conf /etc/appliance/*/planted.* /etc/systemd/system/appliance-planted.service"
    )
    site.on(EDGE, "systemctl daemon-reload")
    (site.inventory / "hosts.yml").write_text(hosts)
    raw = out.read_bytes()
    tar = subprocess.run(["gzip", "-dc", out], capture_output=True, check=True).stdout
    assert len(seen(all_of, there.encode())) >= 40, "they were planted"
    assert seen(all_of, raw) == [] and seen(all_of, tar) == []
    assert (out.stat().st_mode & 0o777) == 0o600
    with tarfile.open(fileobj=BytesIO(tar)) as archive:
        held = {m.name.removeprefix("doctor/"): archive.extractfile(m).read() for m in archive.getmembers()}  # type: ignore[union-attr]
        assert [m.name for m in archive.getmembers()] == sorted(m.name for m in archive.getmembers())
    listed = json.loads(held["CONTENTS.json"])
    assert {e["path"] for e in listed} == held.keys() - {"CONTENTS.json"}
    node = f"nodes/{site.node(EDGE)}"
    journal = held[f"{node}/journal/appliance-planted.service.txt"].decode()
    assert "registry.example.internal/v2/" in journal and "failed with 403" in journal, "useful lines are still there"
    assert b"table inet appliance" in held[f"{node}/rules-inet.txt"] and b"nginx-light" in held[f"{node}/packages.txt"]
    assert b"ssl_certificate_key" in held[f"{node}/config/etc/appliance/nginx/nginx.conf"]
    assert b'"current": "demo-1.0.0"' in held[f"{node}/status.json"] and b'"kernel"' in held[f"{node}/preflight.json"]
    assert b"appliance" in held["control/versions.json"] and b"plant-7" not in held["control/inventory.json"]
    taken = told["removed"][f"{node}/journal/appliance-planted.service.txt"]
    assert taken["seen elsewhere"] >= 6 and taken["token of a known maker"] >= 5


def uninstall(site: Site, *words: str | Path, ok: tuple[int, ...] = (0,), stdin: str = "") -> dict[str, Any]:
    places: list[str | Path] = ["--runs", site.work / "runs", "--evidence", site.work / "evidence"]
    told: dict[str, Any] = site.appliance("uninstall", "-i", site.inventory, *places, *words, ok=ok, stdin=stdin)
    return told


def test_what_is_ours_goes_and_nothing_else(site: Site) -> None:
    """T37: before the install and after the uninstall a node is the same, but for what is listed."""
    before = site.before
    operator = "nft add table inet operator; nft add chain inet operator c; useradd --system --shell /bin/sh watcher; "
    operator += "usermod -aG appliance-serve watcher; mkdir -p /var/lib/appliance/backup /etc/nginx/sites-enabled; "
    for path, text in OPERATORS.items():
        operator += f"printf '%s' '{text}' > {path}; "
    site.on(EDGE, operator)

    told = uninstall(site, "--check")
    assert all("stop appliance-nginx.service" in n["done"] for n in told["nodes"])
    site.on(EDGE, "systemctl is-active appliance-nginx appliance-firewall")
    refused = uninstall(site, ok=(2,), stdin="another-site\n")
    assert "not the site's name" in refused["error"]["what"]
    site.on(EDGE, "systemctl is-active appliance-nginx appliance-firewall")

    done = uninstall(site, "--packages", stdin="plant-7\n")
    edge = next(n for n in done["nodes"] if n["node"] == site.node(EDGE))
    steps = edge["done"]
    assert steps.index("stop appliance-nginx.service") < steps.index("remove nft table inet appliance")
    assert all(
        steps.index("remove nft table inet appliance") > i
        for i, s in enumerate(steps)
        if s.startswith(("stop", "disable", "remove user"))
    )

    after = snapshot(site, EDGE)
    for path in OPERATORS:
        assert any(line.startswith("files: f") and line.endswith(f" {path}") for line in after), path
    assert any("table inet operator" in line for line in after) and any("users: watcher:" in line for line in after)
    mine = (
        *OPERATORS,
        "/etc/appliance",
        "/var/lib/appliance",
        "/var/lib/appliance/backup",
        "/etc/nginx/sites-enabled",
        "/run/appliance-lab-compiled",  # the lab's
    )
    new = {
        line
        for line in after.keys() - before.keys()
        if not line.startswith(("users: watcher", "rules: ")) and not line.endswith(mine)
    }
    kept = [line.split()[1].rstrip(":") for line in edge["left"] if line.startswith("package ")]
    theirs = set(site.on(EDGE, f"dpkg --listfiles {' '.join(kept)}").splitlines()) if kept else set()
    theirs |= {f"/usr{path}" for path in theirs}  # packages say /lib for what lies in /usr/lib
    names = {path.rpartition("/")[2] for path in theirs}
    new = {x for x in new if x.split()[-1] not in theirs and not (x.startswith("units: ") and x.split()[1] in names)}
    listed = {line for line in new if line.startswith(("files: ", "hashes: ")) and any(p in line for p in LEFTOVERS)}
    assert new - listed == set(), sorted(new - listed)
    gone = {line for line in before.keys() - after.keys() if not any(p in line for p in LEFTOVERS)}
    assert gone == set(), sorted(gone)
    for words in ("appliance",):
        left = {
            line
            for line in after
            if words in line and line not in before and not line.endswith((*mine, "/packages.log"))
        }
        assert left == set(), left


def test_a_second_uninstall_changes_nothing(site: Site) -> None:
    before = [snapshot(site, n) for n in (EDGE, MODEL)]
    told = uninstall(site, "--yes", "--packages")
    assert [n["changed"] for n in told["nodes"]] == [0, 0]
    assert [snapshot(site, n) for n in (EDGE, MODEL)] == before


def test_a_node_can_be_installed_again_and_keeps_its_models_when_asked(site: Site) -> None:
    site.install("--limit", site.node(EDGE))
    site.on(EDGE, "systemctl is-active appliance-firewall && nft list table inet operator")
    uninstall(
        site,
        "--yes",
        "--keep-models",
        "--limit",
        site.node(EDGE),
    )
    assert int(site.on(EDGE, "find /var/lib/appliance/blobs -type f | wc -l")) > 10
    site.on(EDGE, "test -e /etc/appliance/pki || test -e /opt/appliance", ok=(1,))
