"""The set of driver packages: what moves together, and what is refused before anything changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from engine.driver.names import is_pinned
from engine.driver.plan import Installed, Simulation, Want, plan, read_index, read_installed, read_simulation
from engine.driver.state import kernel_keys

OLD, NEW = "535.261.03-1", "535.309.01-0+deb12u1"
KERNEL = "6.1.0-50-cloud-amd64"
WANT = Want("535.309.01", KERNEL, ("libcuda1", "nvidia-smi"), (f"linux-image-{KERNEL}", "dkms"))
BUNDLE = {
    "libcuda1": NEW, "nvidia-smi": NEW, "libnvidia-ml1": NEW, "nvidia-modprobe": "535.161.07-1", f"linux-image-{KERNEL}": "6.1.176-1",
    "dkms": "3.0.10-8", "gcc": "12.2",
}  # fmt: skip


def index(**changes: str) -> dict[str, dict[str, str]]:
    return {n: {v: f"./pool/{n}.deb"} for n, v in {**BUNDLE, **changes}.items()}


def apt(removes: tuple[str, ...] = (), error: str = "") -> Callable[[Sequence[str]], Simulation]:
    """An apt that brings everything of the bundle."""
    return lambda asked: Simulation(dict(BUNDLE), removes, error)


def here(**versions: str) -> dict[str, Installed]:
    return {n.replace("_", "-"): Installed(v, False, True) for n, v in versions.items()}


def test_the_whole_set_gets_exact_versions_and_moves_at_once() -> None:
    made = plan(WANT, index(), here(libcuda1=OLD, libnvidia_ml1=NEW), apt())
    assert made.faults == ()
    assert made.pins == {n: v for n, v in BUNDLE.items() if n not in ("dkms", "gcc")}
    assert made.support == {"dkms": "3.0.10-8", f"linux-image-{KERNEL}": "6.1.176-1"}
    assert set(made.moves) == {"libcuda1", "nvidia-smi", "nvidia-modprobe", "dkms", f"linux-image-{KERNEL}"}


def test_every_package_of_the_set_is_named_to_apt_with_its_version() -> None:
    asked: list[list[str]] = []

    def recording(names: Sequence[str]) -> Simulation:
        asked.append(list(names))
        return Simulation(dict(BUNDLE))

    plan(WANT, index(), {}, recording)
    assert set(asked[-1]) == {f"{n}={v}" for n, v in BUNDLE.items() if n != "gcc"}


def test_a_converged_node_moves_nothing() -> None:
    made = plan(WANT, index(), {n: Installed(v, True, True) for n, v in BUNDLE.items()}, lambda _: Simulation())
    assert made.moves == ()
    assert made.faults == ()
    assert "libnvidia-ml1" in made.pins


def test_a_package_left_half_configured_moves_again() -> None:
    state = {n: Installed(v, True, n != "nvidia-smi") for n, v in BUNDLE.items()}
    assert plan(WANT, index(), state, lambda _: Simulation()).moves == ("nvidia-smi",)


@pytest.mark.parametrize(
    ("change", "apt_says", "installed", "names"),
    [
        ({"libcuda1": OLD}, apt(), {}, ("libcuda1 535.261.03", "535.309.01", "gpu_driver.version")),
        ({}, apt(error="nvidia-smi : Depends: libnvidia-ml1 (= 535.309.01)"), {}, ("cannot install the set", "libnvidia-ml1")),
        ({}, apt(removes=("openssh-server",)), {}, ("would remove openssh-server",)),
        ({}, apt(), here(libnvidia_encode1=OLD), ("libnvidia-encode1 535.261.03", "leave behind")),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_named(
    change: dict[str, str], apt_says: Callable[[Sequence[str]], Simulation], installed: dict[str, Installed], names: tuple[str, ...]
) -> None:  # fmt: skip
    faults = " ".join(plan(WANT, index(**change), installed, apt_says).faults)
    assert all(n in faults for n in names), faults


def test_a_bundle_without_a_package_of_the_set_is_refused_before_apt_is_asked() -> None:
    short = {n: v for n, v in index().items() if n != "nvidia-smi"}
    made = plan(WANT, short, {}, lambda _: pytest.fail("apt was asked"))
    assert "holds no nvidia-smi" in made.faults[0]
    assert made.moves == ()


def test_a_bundle_with_two_versions_of_a_package_is_refused() -> None:
    double = {**index(), "libcuda1": {OLD: "a", NEW: "b"}}
    assert "libcuda1 in the versions" in plan(WANT, double, {}, apt()).faults[0]


def test_switching_the_flavour_of_modules_may_remove_the_other_one() -> None:
    made = plan(WANT, index(), here(nvidia_kernel_dkms=OLD), apt(removes=("nvidia-kernel-dkms",)))
    assert made.faults == ()
    assert made.removes == ("nvidia-kernel-dkms",)


@pytest.mark.parametrize(
    ("name", "pinned"),
    [
        ("libnvidia-ml1", True), ("nvidia-fabricmanager-580", True), ("libnvidia-nscq-580", True), ("nvlsm", True), ("nvidia-imex", True),
        ("linux-image-amd64", True), ("linux-modules-nvidia-580-server-open-6.8.0-90-generic", True), ("firmware-nvidia-gsp", True),
        ("nvidia-cuda-mps", True), ("nvidia-container-toolkit", False), ("libnvidia-container1", False), ("nvidia-cuda-toolkit", False), ("nvidia-mig-manager", False),
        ("libc6", False), ("linux-libc-dev", False), ("linux-base", False),
    ],
)  # fmt: skip
def test_what_belongs_to_the_set(name: str, pinned: bool) -> None:
    assert is_pinned(name) is pinned


def test_dpkgs_states_are_read() -> None:
    found = read_installed("ii \ta\t1\nhi \tb\t2\niU \tc\t3\nrc \td\t4\niF \te\t5\niiR\tf\t6\nun \tg\t\n")
    assert {n: (p.held, p.whole) for n, p in found.items()} == {
        "a": (False, True), "b": (True, True), "c": (False, False), "e": (False, False), "f": (False, False),
    }  # fmt: skip


def test_apts_lines_and_the_index_are_read() -> None:
    said = read_simulation("Inst libcuda1 [1-1] (2-1 x:1 [amd64])\nInst a:i386 (3 y)\nRemv b [1]\nConf a (3 y)\n")
    assert said == Simulation({"libcuda1": "2-1", "a": "3"}, ("b",))
    assert read_index("Package: a\nVersion: 1\nFilename: ./a.deb\n\nPackage: a\nVersion: 2\n\n") == {
        "a": {"1": "./a.deb", "2": ""}
    }


# The format is proc_keys_show and asymmetric_key_describe of Linux 6.12, written down by hand, not recorded.
KEYS = """\
0036a5b4 I------     1 perm 1f030000     0     0 asymmetri Debian Secure Boot CA: 6ccece7e4c6c0d1f6149f3dd27dfcc5cbb419ea1: X509.rsa bb419ea1 []
01c8fe2a I--Q---     2 perm 3f030000     0     0 keyring   _ses: 1
0b4d7a11 I------     1 perm 1f030000     0     0 asymmetri Canonical Ltd. Kernel Module Signing: 88f752e560a1e0737e31163a466ad7b70a850c19: X509.rsa 0a850c19 []
0b4d7a12 I------     1 perm 1f030000  1000  1000 asymmetri Somebody: 88f752e560a1e0737e31163a466ad7b70a850c20: X509.rsa 0a850c20 []
2ffd3c6e I------     1 perm 1f0b0000     0 65534 asymmetri Debian Secure Boot CA: 6ccece7e4c6c0d1f6149f3dd27dfcc5cbb419ea1: X509.rsa bb419ea1 []
"""


def test_the_keys_that_the_kernel_knows_are_named_without_their_ids_and_a_user_s_keys_do_not_count() -> None:
    assert kernel_keys(KEYS) == ("Debian Secure Boot CA", "Canonical Ltd. Kernel Module Signing")
    assert kernel_keys("") == kernel_keys("asymmetri X: X509.rsa\n") == ()
