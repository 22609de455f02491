"""GPU models against branch, kernel modules and MIG."""

from __future__ import annotations

import pytest

from installer.compat.tables import GPUS, MIG
from tests.facts import facts, found, one, with_gpu


def site(model: str, **gpu: object) -> dict[str, object]:
    return {"models": [model], "driver": "580.178.04", **gpu}


def test_a_known_model_is_not_remarked() -> None:
    assert not found(facts(), "gpu-model")


def test_a_gpu_on_one_board_with_its_processor_stands_in_such_a_node() -> None:
    one(facts(site("gb200")), "gpu-processor", "failure", "aarch64", "x86_64")
    assert not found(facts(site("gb200"), arch="aarch64"), "gpu-processor")
    assert not found(facts(), "gpu-processor")


def test_an_unknown_model_is_a_warning_that_lists_the_known() -> None:
    one(with_gpu(models=["h2000"]), "gpu-model", "warning", "h2000", "h200-nvl")


@pytest.mark.parametrize(("model", "flavour"), [("h200", "open"), ("h200", "proprietary"), ("v100", "proprietary")])
def test_modules_that_drive_the_gpu_pass(model: str, flavour: str) -> None:
    assert not found(facts(site(model, kernel_modules=flavour)), "kernel-modules")


@pytest.mark.parametrize(
    ("model", "driver", "flavour", "word"),
    [
        ("b200", "580.178.04", "proprietary", "open kernel modules only"),
        ("gh200-96", "580.178.04", "proprietary", "open kernel modules only"),
        ("v100", "580.178.04", "open", "older than Turing"),
        ("h200", "620.70.06", "proprietary", "no proprietary"),
    ],
)
def test_modules_that_do_not_drive_the_gpu_are_refused(model: str, driver: str, flavour: str, word: str) -> None:
    one(facts(site(model, driver=driver, kernel_modules=flavour)), "kernel-modules", "failure", word)


@pytest.mark.parametrize(
    ("model", "driver"), [("v100", "580.178.04"), ("b200", "570.195.03"), ("a100-80", "535.247.01")]
)
def test_a_branch_that_knows_the_gpu_passes(model: str, driver: str) -> None:
    assert not found(facts(site(model, driver=driver)), "gpu-branch")


@pytest.mark.parametrize(
    ("model", "driver", "word"),
    [("v100", "595.84", "580 was the last"), ("b200", "550.163.01", "570 or newer"), ("rtx-pro-6000", "570.195.03", "575 or newer")],
)  # fmt: skip
def test_a_branch_that_does_not_know_the_gpu_is_refused(model: str, driver: str, word: str) -> None:
    one(facts(site(model, driver=driver)), "gpu-branch", "failure", word)


@pytest.mark.parametrize(
    ("model", "mig"),
    [
        ("h200", ["3g.71gb", "3g.71gb"]),
        ("h200", ["1g.18gb", "1g.18gb", "2g.35gb", "3g.71gb"]),  # NVIDIA's all-balanced
        ("h200", ["1g.18gb"] * 7),
        ("a100-40", ["1g.10gb"] * 4),
        ("b200", ["7g.180gb"]),
        ("a30", ["1g.6gb", "1g.6gb", "2g.12gb"]),
        ("rtx-pro-6000", ["1g.24gb", "1g.24gb", "2g.48gb"]),
        ("l40s", []),
    ],
)
def test_mig_that_fits_passes(model: str, mig: list[str]) -> None:
    given = facts(site(model, mig=mig))
    assert not found(given, "mig-profile")
    assert not found(given, "mig-room")


@pytest.mark.parametrize(
    ("model", "mig", "words"),
    [
        ("h200", ["3g.40gb"], ["3g.40gb", "3g.71gb"]),
        ("b200", ["1g.18gb"], ["1g.18gb", "1g.23gb"]),
        ("l40s", ["1g.10gb"], ["cannot be divided"]),
    ],
)
def test_a_profile_the_gpu_does_not_have_is_refused(model: str, mig: list[str], words: list[str]) -> None:
    one(facts(site(model, mig=mig)), "mig-profile", "failure", *words)


@pytest.mark.parametrize(
    ("mig", "words"),
    [
        (["3g.71gb"] * 3, ["3 instances of 3g.71gb", "one GPU has 2"]),
        (["3g.71gb", "3g.71gb", "1g.18gb"], ["7 of 7 compute", "9 of 8 memory"]),
        (["4g.71gb", "3g.71gb", "1g.18gb"], ["8 of 7 compute"]),
    ],
)
def test_more_instances_than_one_gpu_holds_are_refused(mig: list[str], words: list[str]) -> None:
    one(facts(site("h200", mig=mig)), "mig-room", "failure", *words)


def test_every_profile_of_the_tables_fits_as_often_as_its_row_says() -> None:
    for name, model in GPUS.items():
        for profile, (_, _, most) in MIG[model.mig].profiles.items() if model.mig else ():
            assert not found(facts(site(name, mig=[profile] * most)), "mig-room"), (name, profile)
            assert found(facts(site(name, mig=[profile] * (most + 1))), "mig-room"), (name, profile)
