"""The README's second day, executed: its commands as they stand, on a node that was installed as the README says; with the runtime as an image,
and as wheels.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.house import NODE, PASSPHRASE, House, asking, built, bundle_and_kit, first_install

pytestmark = [pytest.mark.nodes, pytest.mark.slow]


@pytest.fixture(scope="module", params=["image", "wheels"])
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    """A site that was installed and changed as the README says."""
    with built(request.param) as made:
        bundle_and_kit(made)
        made.run("Once, on the control host")
        first_install(made)
        made.run("Change a setting")
        yield made


# The tests below follow the README to its last command; pytest runs them in this order.


def test_an_upgrade_that_fails_goes_back_by_itself(house: House) -> None:
    """The release itself is good; the site asks for more than the model can do. Who asks meanwhile gets an answer or is told to wait."""
    house.run("The next release, on the builder")
    house.control.run("appliance import /media/drive/ours-1.1.0")
    house.set_length(16384)
    with asking(house) as seen:
        said = house.control.run("appliance install -i site --release ours-1.1.0", ok=False)
    assert "max_model_len (16384) is greater than" in said and "Lower max-model-len" in said
    assert house.release() == "ours-1.0.0" and house.length() == 512
    assert seen.faults == [] and set(seen.statuses) == {200, 503}, seen


def test_the_release_that_still_runs_is_no_downgrade(house: House) -> None:
    house.set_length(512)
    outcome = house.json("appliance install -i site --release ours-1.0.0")
    assert outcome["good"], outcome["failures"]
    assert house.release() == "ours-1.0.0"


def test_the_upgrade_is_what_was_planned_and_cuts_nothing(house: House) -> None:
    with asking(house) as seen:
        house.run("Upgrade, on the control host")
    assert house.release() == "ours-1.1.0" and house.length() == 512
    assert seen.faults == [] and set(seen.statuses) == {200, 503}, seen


def test_a_rollback_says_where_it_goes_and_goes_there_and_the_node_goes_forward_again(house: House) -> None:
    with asking(house) as seen:
        said = house.run("Go back")
    assert "(ours-1.0.0, kept" in said and " differ" in said
    assert house.release() == "ours-1.0.0" and house.length() == 512
    assert seen.faults == [] and set(seen.statuses) == {200, 503}, seen
    outcome = house.json("appliance install -i site --release ours-1.1.0")
    assert outcome["good"], outcome["failures"]
    assert house.release() == "ours-1.1.0" and house.length() == 512


def test_status_finds_nothing_wrong_and_the_support_bundle_holds_no_secret(house: House) -> None:
    said = house.run("Look and ask for help")
    assert "ours-1.1.0" in said
    names = house.control.run("tar -tf fault.tar.gz")
    assert f"{NODE}" in names and "REMOVED.json" in names
    keys = house.control.run("cat /var/lib/appliance/ca/*.key | sed -n 2p").split()
    assert keys
    for secret in (PASSPHRASE, *keys):
        assert house.control.run(f"tar -xOf fault.tar.gz | grep -cF -e '{secret}' || true").strip() == "0"


def test_what_the_site_brought_goes(house: House) -> None:
    house.run("Remove")
    assert house.on_node("ls /opt/appliance /etc/appliance 2>/dev/null || true").strip() == ""
    assert house.on_node("nft list tables").strip() == ""


def test_a_second_person_agrees_to_a_new_install_and_nothing_else_is_installed(house: House) -> None:
    house.run("A second person")
    assert house.release() == "ours-1.1.0" and house.length() == 512
    refused = house.json("appliance install -i site --release ours-1.1.0", ok=False)
    assert "nothing without an agreed plan" in refused["error"]["what"]


def test_every_block_of_the_readme_was_run(house: House) -> None:
    assert [b.lead for b in house.document if b not in house.ran] == []
