"""A site with tenants on one node, with the real engine: install, keys, budgets, a revocation, the audit log, the sandboxes."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, AuthenticationError, BadRequestError, OpenAI, RateLimitError

from installer.lab.lab import Lab, down, up
from tests.demo import TREE, Demo, client, install_argv, site_environment
from tests.e2e.onenode import on_node

pytestmark = [pytest.mark.nodes, pytest.mark.slow]
UNITS = ("appliance-ledger.service", "appliance-gateway@1.service", "appliance-gateway@2.service")
TENANTS = """\
# Who may ask; this line stays.
schema: 1
site: e2e
cache_salt_seed: 0123456789abcdefghij
tenants:
  - name: team-a
    cost_centre: "4711"
    models: [tiny]
    keys: [] # made by appliance tenants new-key
  - name: team-b
    cost_centre: "4712"
    models: [tiny]
    limits: {requests_per_minute: 2}
"""


@pytest.fixture(scope="module")
def lab(demo: Demo) -> Iterator[Lab]:
    """A node that has nothing yet."""
    name = f"tenants-{os.getpid()}"
    made = up(name, owner_pid=os.getpid())
    site_environment(demo, made)
    try:
        yield made
    finally:
        down(name)


@pytest.fixture(scope="module")
def site(demo: Demo, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("tenants") / "site"
    shutil.copytree(TREE / "inventories/demo", where)
    for path in (where / "hosts.yml", where / "group_vars/all/site.yml"):
        # Its addresses as an operator writes them: Ansible gets nothing of this process's environment.
        path.write_text(
            re.sub(
                r"\{\{ lookup\('ansible.builtin.env', '(\w+)'\) \}\}",
                lambda m: demo.environment[m[1]],
                path.read_text(),
            )
        )
    file = where / "group_vars/all/site.yml"
    file.write_text(file.read_text() + "  gateway:\n    tenants: tenants.yml\n")
    (where / "tenants.yml").write_text(TENANTS)
    return where


@pytest.fixture(scope="module")
def release(demo: Demo) -> Path:
    """The demo's bundle with the gateway."""
    where = demo.work / "with-gateway"
    (where / "bundles").mkdir(parents=True)
    (where / "build").symlink_to(TREE / "build")
    shutil.copy2(TREE / "bundles/demo.pins.txt", where / "bundles")
    definition = where / "bundles/demo.yml"
    definition.write_text(
        (TREE / "bundles/demo.yml").read_text().replace("version: 1.0.0", "version: 1.2.0") + "\ngateway: true\n"
    )
    demo.appliance("lock", definition)
    demo.appliance("build", "bundle", definition, "--out", where)
    return where / "demo-1.2.0"


def with_key(demo: Demo, lab: Lab, key: str) -> OpenAI:
    return client(demo, lab).with_options(api_key=key)


def say(one: OpenAI, **more: Any) -> Any:
    return one.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hello"}], max_tokens=4, **more
    )


def places(demo: Demo) -> list[str | Path]:
    return ["--runs", demo.work / "control/runs"]


def started(lab: Lab) -> str:
    return on_node(lab, f"systemctl show -p Id,MainPID,NRestarts,ActiveState {' '.join(UNITS)}")


KEYS: dict[str, str] = {}

# The tests below follow one node through its life; pytest runs them in this order.


def test_the_site_is_installed_and_the_model_proven_through_the_gateway(
    demo: Demo, lab: Lab, site: Path, release: Path
) -> None:
    outcome = demo.appliance(*install_argv(demo, site), release, json_output=True)
    assert outcome["good"], outcome["failures"]
    assert [(p["service"], p["good"], p["refused_without_certificate"]) for p in outcome["proof"]] == [
        ("tiny", True, True)
    ]
    assert started(lab).count("ActiveState=active") == 3


def test_a_second_install_changes_nothing_and_restarts_nothing(demo: Demo, lab: Lab, site: Path, release: Path) -> None:
    before = started(lab)
    outcome = demo.appliance(*install_argv(demo, site), release, "--full", json_output=True)
    assert outcome["good"] and outcome["nodes"]["node-1"]["changed"] == 0, outcome["nodes"]
    assert started(lab) == before


def test_a_certificate_of_no_tenant_is_not_enough(demo: Demo, lab: Lab) -> None:
    with pytest.raises(AuthenticationError):
        say(client(demo, lab))


def test_a_new_key_counts_as_soon_as_it_is_applied_and_nothing_restarts(demo: Demo, lab: Lab, site: Path) -> None:
    before = started(lab)
    for tenant in ("team-a", "team-b"):
        KEYS[tenant] = demo.appliance("tenants", "new-key", tenant, "-i", site, json_output=True)["key"]
    with pytest.raises(AuthenticationError):
        say(with_key(demo, lab, KEYS["team-a"]))
    shown = demo.appliance("tenants", "apply", "-i", site, *places(demo), "--check", json_output=True)
    assert shown["changed"] and "team-a-1" in "".join(shown["differences"].values())
    with pytest.raises(AuthenticationError):
        say(with_key(demo, lab, KEYS["team-a"]))
    done = demo.appliance("tenants", "apply", "-i", site, *places(demo), json_output=True)
    assert done["changed"]
    time.sleep(1)  # what docs/gateway.md promises
    assert say(with_key(demo, lab, KEYS["team-a"])).usage.completion_tokens > 0
    assert not demo.appliance("tenants", "apply", "-i", site, *places(demo), json_output=True)["changed"]
    assert started(lab) == before
    assert "# Who may ask; this line stays." in (site / "tenants.yml").read_text()


def test_a_stream_has_usage_at_its_end_alone(demo: Demo, lab: Lab) -> None:
    chunks = list(say(with_key(demo, lab, KEYS["team-a"]), stream=True, stream_options={"include_usage": True}))
    assert [c.usage is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]


def test_a_limit_refuses_with_its_own_retry_after(demo: Demo, lab: Lab) -> None:
    one = with_key(demo, lab, KEYS["team-b"])
    say(one)
    say(one)
    with pytest.raises(RateLimitError) as caught:
        say(one)
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60


def test_without_a_certificate_a_key_is_nothing(demo: Demo, lab: Lab) -> None:
    with pytest.raises(BadRequestError, match="client certificate"):
        say(client(demo, lab, certificate=False).with_options(api_key=KEYS["team-a"]))


def test_the_units_are_hardly_exposed_and_their_sockets_are_for_few(lab: Lab) -> None:
    for unit in UNITS:
        said = on_node(lab, f"systemd-analyze security --no-pager {unit}")
        found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
        assert found and float(found[1]) <= 2.0, said
    nobody, nginx = (
        "--reuid=nobody --regid=nogroup --clear-groups",
        "--reuid=appliance-nginx --regid=appliance-nginx --groups=appliance-gateway",
    )
    worker, ledger, configuration = (
        "/run/appliance-gateway/1/api.sock",
        "/run/appliance-ledger/ledger.sock",
        "/etc/appliance/gateway/gateway.yml",
    )
    for who, path, what, may in (
        (nobody, worker, "w", "no"), (nobody, ledger, "w", "no"), (nobody, configuration, "r", "no"), (nginx, worker, "w", "yes"),
        (nginx, ledger, "w", "no"), (nginx, configuration, "r", "no"), (nobody, "/etc/appliance/gateway/checkpoint.pem", "r", "no"),
    ):  # fmt: skip
        assert on_node(lab, f"setpriv {who} test -{what} {path} && echo yes || echo no").strip() == may, (who, path)


def test_what_was_used_is_reported_and_the_audit_log_is_sound(demo: Demo, lab: Lab, site: Path) -> None:
    told = demo.appliance("tenants", "report", "-i", site, json_output=True)
    assert told["tenant"]["team-a"]["completion_tokens"] > 0
    assert told["tenant"]["team-b"]["refused"] >= 1
    gateway = "/opt/appliance/current/gateway/bin/appliance-gateway"
    verify = f"{gateway} audit verify --directory /var/lib/appliance-ledger/audit --key /etc/appliance/gateway/checkpoint.pub"
    assert json.loads(on_node(lab, verify))["sound"]
    for text in (
        on_node(lab, "cat /var/lib/appliance-ledger/audit/*.jsonl"),
        on_node(lab, "journalctl --no-pager -u 'appliance-*' -t appliance_nginx"),
    ):
        assert KEYS["team-a"] not in text


def test_a_revoked_key_is_refused_and_a_rollback_does_not_bring_it_back(demo: Demo, lab: Lab, site: Path) -> None:
    before = started(lab)
    demo.appliance("tenants", "revoke-key", "team-a-1", "-i", site)
    demo.appliance("tenants", "apply", "-i", site, *places(demo))
    time.sleep(1)
    with pytest.raises(AuthenticationError):
        say(with_key(demo, lab, KEYS["team-a"]))
    assert started(lab) == before
    kept = on_node(lab, "cat /etc/appliance/gateway/gateway.yml")
    assert "team-a-1" not in kept
    assert on_node(lab, "find /opt/appliance/generations -path '*/files/etc/appliance/gateway*'").strip() == ""


def test_a_gateway_that_the_site_takes_out_is_removed_and_the_model_answers_certificates_again(
    demo: Demo, lab: Lab, site: Path, release: Path
) -> None:
    file = site / "group_vars/all/site.yml"
    file.write_text(file.read_text().replace("  gateway:\n    tenants: tenants.yml\n", ""))
    outcome = demo.appliance(*install_argv(demo, site), release, json_output=True)
    assert outcome["good"], outcome["failures"]
    assert say(client(demo, lab)).usage.completion_tokens > 0
    assert on_node(lab, "ls /etc/systemd/system | grep -E 'appliance-(ledger|gateway)' || true").strip() == ""
    assert on_node(lab, "ls /var/lib/appliance-ledger/audit").strip()
    with pytest.raises(APIStatusError):
        client(demo, lab, certificate=False).models.list()
