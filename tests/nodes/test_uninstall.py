"""`appliance uninstall` on real nodes: what is ours goes, what is the operator's stays, and the site can be installed again."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from installer.lab.lab import down, up
from tests.demo import Demo
from tests.nodes.daytwosite import EDGE, MODEL, Site, snapshot

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(600)]
# What a package leaves when it is removed and not purged, and what dpkg and the system write about its coming and going.
LEFTOVERS = (
    " /etc/nginx", " /etc/default/nginx", " /etc/init.d/nginx", " /etc/logrotate.d/nginx", " /etc/ufw", " /etc/rc", " /etc/nftables.conf",
    " /etc/ld.so.cache", " /etc/passwd", " /etc/group", " /etc/shadow", " /etc/gshadow", " /etc/subuid", " /etc/subgid", " /var/lib/ucf", " /var/lib/nginx",
    " /var/lib/python", " /usr/share/python3", " /var/lib/pam", " /etc/apt", " /var/lib/appliance/packages.log", " /usr/lib/python3",
)  # fmt: skip
OPERATORS = {
    "/etc/appliance/operators-note.txt": "ours, says the operator\n",
    "/var/lib/appliance/backup/keep": "do not touch\n",
    "/etc/nginx/sites-enabled/operator": "# a site of the operator\n",
    "/opt/model_double.py": "",
}


@pytest.fixture(scope="module")
def site(demo: Demo) -> Iterator[Site]:
    work = demo.work / "uninstall"
    work.mkdir()
    lab = up(f"test-{secrets.token_hex(3)}", nodes=2, owner_pid=os.getpid())
    made = Site(demo, lab, work)
    try:
        made.write()
        made.take_in()
        yield made
    finally:
        down(lab.name)


def test_what_is_ours_goes_and_nothing_else(site: Site) -> None:
    """T37: before the install and after the uninstall a node is the same, but for what is listed."""
    site.on(EDGE, "systemctl is-system-running --wait; true", ok=(0, 1))
    before = snapshot(site, EDGE)
    site.install()
    site.edges()
    operator = "nft add table inet operator; nft add chain inet operator c; useradd --system --shell /bin/sh watcher; "
    operator += "usermod -aG appliance-serve watcher; mkdir -p /var/lib/appliance/backup /etc/nginx/sites-enabled; "
    for path, text in OPERATORS.items():
        operator += f"printf '%s' '{text}' > {path}; "
    site.on(EDGE, operator)

    told = site.appliance("uninstall", "-i", site.inventory, "--check")
    assert all("stop appliance-nginx.service" in n["done"] for n in told["nodes"])
    site.on(EDGE, "systemctl is-active appliance-nginx appliance-firewall")
    refused = site.appliance("uninstall", "-i", site.inventory, ok=(2,), stdin="another-site\n")
    assert "not the site's name" in refused["error"]["what"]
    site.on(EDGE, "systemctl is-active appliance-nginx appliance-firewall")

    done = site.appliance("uninstall", "-i", site.inventory, "--packages", stdin="plant-7\n")
    edge = next(n for n in done["nodes"] if n["node"] == site.node(EDGE))
    steps = edge["done"]
    assert steps.index("stop appliance-nginx.service") < steps.index("remove nft table inet appliance")
    assert all(
        steps.index("remove nft table inet appliance") > i
        for i, s in enumerate(steps)
        if s.startswith(("stop", "remove user", "remove packages"))
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
    )
    new = {
        line
        for line in after.keys() - before.keys()
        if not line.startswith(("users: watcher", "rules: ")) and not line.endswith(mine)
    }
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
    told = site.appliance("uninstall", "-i", site.inventory, "--yes", "--packages")
    assert [n["changed"] for n in told["nodes"]] == [0, 0]
    assert [snapshot(site, n) for n in (EDGE, MODEL)] == before


def test_a_node_can_be_installed_again_and_keeps_its_models_when_asked(site: Site) -> None:
    site.install()
    site.edges()
    site.connect(site.client("again")).connect()
    site.appliance("uninstall", "-i", site.inventory, "--yes", "--keep-models")
    assert int(site.on(EDGE, "find /var/lib/appliance/blobs -type f | wc -l")) > 10
    site.on(EDGE, "test -e /etc/appliance/pki || test -e /opt/appliance", ok=(1,))
