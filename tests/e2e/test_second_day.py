"""What moves on a node that serves, with the real engine, is told, predicted and repaired. Changes that are meant are in test_readme_second_day.py."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from installer.lab.lab import Lab, down, up
from tests.demo import Demo, ask, install_argv, site_environment
from tests.e2e.onenode import changed, lengths, on_node, start_times, status_argv

pytestmark = [pytest.mark.nodes, pytest.mark.slow]


@pytest.fixture(scope="module")
def lab(demo: Demo) -> Iterator[Lab]:
    """A node that serves."""
    name = f"second-{os.getpid()}"
    made = up(name, owner_pid=os.getpid())
    site_environment(demo, made)
    try:
        demo.appliance(*install_argv(demo), demo.bundle)
        yield made
    finally:
        down(name)


# The tests below follow one node through its life; pytest runs them in this order.


def test_what_drifts_is_all_that_a_dry_run_predicts_and_an_install_repairs(demo: Demo, lab: Lab) -> None:
    """The dry run goes through every role of an installed node, so it shows as well that nothing else would change."""
    on_node(lab, "echo '# by hand' >> /etc/appliance/nginx/nginx.conf")
    predicted = demo.appliance(*install_argv(demo), "--check", demo.bundle, json_output=True)
    made = demo.appliance(*install_argv(demo), demo.bundle, json_output=True)
    assert predicted["good"] and not predicted["nodes"]["node-1"]["nothing_yet"], predicted["failures"]
    # The repaired state is a generation of its own; a dry run repairs nothing, so that the edge would still run with something older.
    after = (
        "node: Keep this state of the node",
        "node: Restart units that run with something older than what is written",
    )
    for outcome in (predicted, made):
        changes = [c for c in outcome["nodes"]["node-1"]["changes"] if c not in after]
        assert changes and all("nginx" in c for c in changes), changes
    assert "by hand" not in on_node(lab, "cat /etc/appliance/nginx/nginx.conf")
    assert ask(demo, lab)


def test_a_missed_restart_is_told_and_made_up_for(demo: Demo, lab: Lab) -> None:
    site = changed(demo, 512)
    made = demo.appliance(*install_argv(demo, site), demo.bundle, json_output=True)
    assert made["good"], made["failures"]
    assert lengths(demo, lab) == [512]
    units = start_times(lab)
    assert demo.appliance(*install_argv(demo, site), demo.bundle, json_output=True)["idle"] == ["node-1"]
    on_node(lab, "sed -i 's/max-model-len: 512/max-model-len: 256/' /etc/appliance/vllm/tiny.yaml")
    told = demo.appliance(*status_argv(demo), "-i", site, ok=(5,), json_output=True)
    assert "tiny runs with another configuration" in told["nodes"][0]["findings"][0]["what"]
    on_node(lab, "systemctl restart appliance-vllm@tiny")
    assert lengths(demo, lab) == [256]
    demo.appliance(*install_argv(demo, site), demo.bundle)
    assert lengths(demo, lab) == [512]
    assert start_times(lab) != units
