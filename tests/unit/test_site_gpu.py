"""What the site may say about driver, CUDA and MIG, and how the roles hear it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from engine.errors import InputError
from installer.site.inventory import Host, Inventory, _consistent
from installer.site.settings import Site
from installer.site.variables import variables

BASE: dict[str, Any] = {"control": {"address": "192.0.2.5"}, "management_sources": ["192.0.2.0/24"]}
DRIVER: dict[str, Any] = {"version": "580.178.04", "kernel": "6.12.107+deb13-amd64"}
SERVICE: dict[str, Any] = {"name": "chat", "model": "m", "served_name": "m", "devices": ["nvidia"]}
LAYOUT: dict[str, Any] = {"layout": [{"gpus": "all", "profiles": {"3g.40gb": 2}}]}
HOST = Host("gpu-1", "192.0.2.11", ("gateway", "gpu"))


def site(**more: Any) -> Site:
    return Site.model_validate({**BASE, **more})


def test_a_window_reaches_the_roles_in_the_words_of_the_site() -> None:
    said = site(gpu_driver={**DRIVER, "maintenance": {"days": ["sat"], "from": "22:00", "to": "04:00"}})
    made = variables(Inventory(Path(), (HOST,), said), "r-1", {})
    assert made["appliance_site"]["gpu_driver"]["maintenance"] == {"days": ["sat"], "from": "22:00", "to": "04:00"}


def test_without_a_driver_the_roles_have_nothing_to_do() -> None:
    made = variables(Inventory(Path(), (HOST,), site()), "r-1", {})
    assert [made["appliance_site"][k] for k in ("gpu_driver", "cuda", "mig")] == [None, None, None]


@pytest.mark.parametrize(
    "bad",
    [
        {"gpu_driver": {**DRIVER, "version": "580"}}, {"gpu_driver": {**DRIVER, "version": "580.1; reboot"}},
        {"gpu_driver": {**DRIVER, "kernel": "../6.1"}}, {"gpu_driver": {**DRIVER, "packages": ["-o=x"]}},
        {"gpu_driver": {**DRIVER, "maintenance": {"from": "24:00", "to": "04:00"}}},
        {"gpu_driver": {**DRIVER, "maintenance": {"days": ["saturday"], "from": "22:00", "to": "04:00"}}},
        {"gpu_driver": {"kernel": "6.1"}}, {"mig": {"layout": []}}, {"mig": {"layout": [{"profiles": {"big": 1}}]}},
        {"mig": {"layout": [{"profiles": {"1g.5gb": 9}}]}}, {"cuda": {"compat": "cuda compat"}},
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        site(**bad)


@pytest.mark.parametrize("profile", ["1g.5gb", "1g.10gb+me", "1g.24gb-me", "2g.48gb+gfx", "1g.24gb+me.all", "7g.141gb"])
def test_every_form_of_a_profiles_name_is_taken(profile: str) -> None:
    assert site(mig={"layout": [{"profiles": {profile: 1}}]}).mig


def test_a_services_slice_goes_to_the_role_mig_alone() -> None:
    said = site(mig=LAYOUT, services=[{**SERVICE, "mig": {"gpu": 1, "instance": 1}}])
    made = variables(Inventory(Path(), (HOST,), said), "r-1", {})
    assert made["appliance_slices"] == {"gpu-1": [{"name": "chat", "gpu": 1, "instance": 1}]}
    assert "mig" not in made["appliance_services"]["gpu-1"][0]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"services": [{**SERVICE, "mig": {}}]}, "divides no GPU"),
        ({"services": [{**SERVICE, "mig": {}, "devices": []}], "mig": LAYOUT}, "do not name nvidia"),
    ],
)
def test_what_does_not_fit_together_is_refused(more: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        _consistent(Path("site"), (HOST,), site(**more))
