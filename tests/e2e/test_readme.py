"""The README, executed: its commands as they stand, from nothing to a changed setting, with the real engine. What comes after is in
test_readme_second_day.py, which takes longer.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.asked import everything, expected
from tests.e2e.house import LOG, NODE, House, built, bundle_and_kit, first_install

pytestmark = pytest.mark.nodes


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with built("image") as made:
        yield made


# The tests below follow the README from its first command to its last; pytest runs them in this order.


def test_the_builder_makes_a_bundle_and_a_kit(house: House) -> None:
    bundle_and_kit(house)


def test_the_control_host_believes_the_kit_and_gets_its_installer_from_the_bundle(house: House) -> None:
    said = house.run("Once, on the control host")
    assert 'Good "appliance-starting-kit" signature' in said
    assert house.control.run("command -v appliance").strip() == "/opt/appliance-control/bin/appliance"


def test_the_written_site_fits_at_the_first_try_and_the_model_answers(house: House) -> None:
    said = first_install(house)
    assert "answered through mutual TLS" in said and "installed in" in said and "all refused" in said


def test_a_second_install_changes_nothing(house: House) -> None:
    before = house.started()
    outcome = house.json("appliance install -i site --root starting-kit/root.json /media/drive/ours-1.0.0")
    assert outcome["good"] and outcome["idle"] == [NODE]
    assert house.started() == before


def test_a_changed_setting_is_what_the_service_runs_with_and_a_lost_restart_is_made_up_for(house: House) -> None:
    """A unit file that is newer than the unit is what a run leaves that was killed before its handlers."""
    timer = "appliance-egress-proof.timer"
    house.on_node(f"touch /etc/systemd/system/{timer}")
    before = house.on_node(f"systemctl show -p ActiveEnterTimestampMonotonic {timer}")
    told = house.on_node("/opt/appliance/current/engine/bin/appliance-engine generation missed --check")
    assert f"{timer} runs with something older" in told
    house.run("Change a setting")
    assert house.length() == 512
    assert house.on_node(f"systemctl show -p ActiveEnterTimestampMonotonic {timer}") != before
    assert house.json("appliance install -i site")["idle"] == [NODE]


def test_no_kind_of_request_ends_the_engine(house: House) -> None:
    """The node has no compiler, and some of these are compiled for when they first come."""
    before = house.started()
    found = everything(house.asks())
    with LOG.open("a") as log:
        log.writelines(f"{status}, a plain chat after it {after}: {name}\n" for name, (status, after) in found.items())
    assert found == expected()
    assert house.started() == before


def test_every_block_up_to_here_was_run(house: House) -> None:
    last = next(n for n, b in enumerate(house.document) if b.lead.startswith("Change a setting"))
    assert [b.lead for b in house.document[: last + 1] if b not in house.ran] == []
