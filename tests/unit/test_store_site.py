"""What a site says of its model store, and what the rest of the product makes of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from engine.preflight.facts import Space
from installer.rehearse.shape import like
from installer.site import needs
from installer.site.inventory import Host, Inventory, load
from installer.site.settings import ModelStore, Site
from tests.nodefacts import node
from tests.unit.test_preflight_site import GPU, release, site
from tests.unit.test_rehearse_shape import definition

TREE = Path(__file__).resolve().parents[2]
DEVICE = "/dev/disk/by-partlabel/model-store"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"device": "/dev/nvme0n1"}, "should match pattern"),
        ({"device": "/dev/disk/by-id/../../sda"}, "should match pattern"),
        ({"encryption": {"opened_by": "tpm2"}}, "needs a device"),
        ({"device": DEVICE, "encryption": {"opened_by": "passphrase"}}, "passphrase_file goes with"),
        ({"device": DEVICE, "encryption": {"opened_by": "tpm2", "passphrase_file": "x"}}, "passphrase_file goes with"),
        ({"device": DEVICE, "encryption": {"tpm2_pin_file": "x"}}, "tpm2_pin_file goes with"),
        ({"device": DEVICE, "encryption": {"opened_by": "tpm2", "tpm2_pcrs": [24]}}, "less than or equal to 23"),
        ({"reserve": "10%"}, "should match pattern"),
    ],
)
def test_a_store_that_cannot_be_meant_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ModelStore.model_validate(given)


def test_the_example_has_a_store_and_every_key_of_it_reaches_the_role() -> None:
    store = load(TREE / "inventories/example").site.model_store
    assert store is not None
    assert store.encryption.opened_by == "tpm2"
    words = (TREE / "playbooks/group_vars/all.yml").read_text()
    options = yaml.safe_load((TREE / "roles/model_store/meta/argument_specs.yml").read_text())
    given = set(yaml.safe_load(words)) & set(options["argument_specs"]["main"]["options"])
    left = {"appliance_model_store_enrol_again", "appliance_model_store_budget_s", "appliance_model_store_metrics",
            "appliance_model_store_python"}  # fmt: skip
    assert given == set(options["argument_specs"]["main"]["options"]) - left


def with_store(**store: Any) -> Inventory:
    plain = site()
    return replace(plain, site=plain.site.model_copy(update={"model_store": ModelStore(device=DEVICE, **store)}))


def contents(inventory: Inventory, mount: str) -> list[str]:
    facts = node()
    assert facts.storage
    spaces = tuple(s for s in facts.storage.spaces if s.path != needs.BLOBS)
    storage = replace(facts.storage, spaces=(*spaces, Space(needs.BLOBS, mount, "xfs", "8:1", 1, 1, False)))
    want = needs.expectation(GPU, release(), inventory, replace(facts, storage=storage), date(2026, 11, 21))
    return [s.what for s in want.spaces]


def test_room_on_the_root_file_system_does_not_matter_when_the_content_gets_its_own() -> None:
    assert "content" not in contents(with_store(), "/")
    assert "content" in contents(with_store(), "/var/lib/appliance/store")
    assert "content" in contents(with_store(groups=("gateway",)), "/")
    assert "content" in contents(site(), "/")


def test_a_rehearsal_has_no_device_for_it_and_says_so() -> None:
    plain = with_store()
    rehearsed = Inventory(Path("site"), (Host("gpu-1", "192.0.2.21", ("gpu",)),), plain.site)
    shape = like(rehearsed, {}, definition())
    assert isinstance(shape.site, Site)
    assert shape.site.model_store is None
    assert any("the model store" in gap for gap in shape.gaps)
