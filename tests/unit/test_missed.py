"""Units that missed a restart are found by the age of what they read, and nothing else is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.generation.missed import Missed, judge

BOOTED, NOW = 1_000_000.0, 1_005_000.0
STARTED = 3000  # seconds after boot
UNIT = "etc/systemd/system/appliance-nginx.service"
DROP_IN = "etc/systemd/system/appliance-nginx.service.d/a.conf"
CONFIGURATION, KEY = "etc/appliance/nginx/nginx.conf", "etc/appliance/pki/node.crt"


def write(root: Path, path: str, text: str, age: float) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)
    os.utime(root / path, (BOOTED + STARTED - age, BOOTED + STARTED - age))


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """All files are older than the units."""
    write(tmp_path, UNIT, "ExecStart=nginx -c /etc/appliance/nginx/nginx.conf\n", 60)
    write(tmp_path, DROP_IN, "Environment=A=1\n", 60)
    write(tmp_path, CONFIGURATION, "ssl_certificate /etc/appliance/pki/node.crt;\n", 60)
    write(tmp_path, KEY, "certificate", 60)
    return tmp_path


def shown(**changes: str) -> str:
    told = {
        "Id": "appliance-nginx.service", "ActiveState": "active", "Type": "exec", "RemainAfterExit": "no", "CanReload": "yes",
        "FragmentPath": f"/{UNIT}", "DropInPaths": f"/{DROP_IN}", "ActiveEnterTimestampMonotonic": str(STARTED * 10**6 - 500),
        "StateChangeTimestampMonotonic": str(STARTED * 10**6), "Triggers": "",
    } | changes  # fmt: skip
    return "".join(f"{k}={v}\n" for k, v in told.items())


def test_a_unit_that_is_newer_than_its_files_missed_nothing(node: Path) -> None:
    assert judge(shown(), node, BOOTED, NOW) == ()


@pytest.mark.parametrize(("file", "reload"), [(UNIT, False), (DROP_IN, False), (CONFIGURATION, True), (KEY, True)])
def test_a_newer_file_is_named_and_reloaded_where_that_is_enough(node: Path, file: str, reload: bool) -> None:
    write(node, file, (node / file).read_text(), -1)
    assert judge(shown(), node, BOOTED, NOW) == (Missed("appliance-nginx.service", f"/{file}", reload),)


def test_a_reload_counts_for_a_unit_that_can(node: Path) -> None:
    write(node, CONFIGURATION, (node / CONFIGURATION).read_text(), -10)
    later = str((STARTED + 20) * 10**6)
    assert judge(shown(StateChangeTimestampMonotonic=later), node, BOOTED, NOW) == ()
    assert judge(shown(StateChangeTimestampMonotonic=later, CanReload="no"), node, BOOTED, NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"ActiveState": "inactive"},
        {"Type": "oneshot"},
        {"Id": "appliance-vllm@chat.service"},  # compared by what it runs with
        {"Id": "appliance-firewall.service"},
    ],
)
def test_who_does_not_run_or_is_looked_at_elsewhere_misses_nothing(node: Path, change: dict[str, str]) -> None:
    write(node, UNIT, "x", -1)
    assert judge(shown(**change), node, BOOTED, NOW) == ()


def test_a_file_from_the_future_says_nothing(node: Path) -> None:
    """A clock that was set back would else restart a unit at every install."""
    write(node, UNIT, "x", -(NOW - BOOTED))
    assert judge(shown(), node, BOOTED, NOW) == ()


def test_a_socket_takes_its_service_along(node: Path) -> None:
    write(node, "etc/systemd/system/appliance-egress-raw.socket", "x", -1)
    socket = shown(
        Id="appliance-egress-raw.socket", Type="", CanReload="no", DropInPaths="", Triggers="appliance-nginx.service",
        FragmentPath="/etc/systemd/system/appliance-egress-raw.socket",
    )  # fmt: skip
    [found] = judge(f"{socket}\n{shown()}", node, BOOTED, NOW)
    assert (found.unit, found.along) == ("appliance-egress-raw.socket", ("appliance-nginx.service",))


def test_tenants_of_the_gateway_are_no_reason_to_restart_it_and_its_certificate_is(node: Path) -> None:
    """The ledger watches its configuration itself; a worker takes its certificate in at its start alone."""
    unit, tenants = "etc/systemd/system/appliance-gateway@.service", "etc/appliance/gateway/gateway.yml"
    write(node, unit, f"ExecStart=serve --config /{tenants}\nLoadCredential=node.crt:/{KEY}\n", 60)
    write(node, tenants, "schema: 1\n", -1)
    worker = shown(Id="appliance-gateway@1.service", FragmentPath=f"/{unit}", DropInPaths="", CanReload="no")
    assert judge(worker, node, BOOTED, NOW) == ()
    write(node, KEY, "certificate", -1)
    assert judge(worker, node, BOOTED, NOW) == (Missed("appliance-gateway@1.service", f"/{KEY}", False),)
