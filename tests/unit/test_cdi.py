"""The description of GPUs for containers is made anew when what it depends on has changed, and at no other time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine import cdi
from engine.errors import InputError, ResourceError

GPU = "GPU 0: NVIDIA H200 (UUID: GPU-0)\n"


class Node:
    """Doubles of nvidia-smi and nvidia-ctk on the path; the latter counts how often it wrote."""

    def __init__(self, root: Path) -> None:
        self.root, self.spec, self.seen = root, root / "cdi/nvidia.yaml", root / "seen.json"
        self.say(GPU)
        self.program("nvidia-smi", f"case $1 in -L) cat {root}/gpus;; *) echo 580.95.05;; esac")
        self.program(
            "nvidia-ctk",
            f"if [ $2 = list ]; then cat {self.spec}; else echo >> {root}/written; "
            f"sed -n 's/^GPU \\([0-9]\\).*/nvidia.com\\/gpu=\\1/p' {root}/gpus > {self.spec}; fi",
        )

    def program(self, name: str, script: str) -> None:
        path = self.root / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def say(self, gpus: str) -> None:
        (self.root / "gpus").write_text(gpus)

    def refresh(self, *wanted: str, dry_run: bool = False) -> bool:
        return cdi.refresh(self.spec, self.seen, wanted, dry_run=dry_run)[1]

    @property
    def written(self) -> int:
        path = self.root / "written"
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    made = Node(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return made


def test_it_is_made_once_and_then_left_alone(node: Node) -> None:
    assert [node.refresh("nvidia.com/gpu=0"), node.refresh("nvidia.com/gpu=0")] == [True, False]
    assert node.written == 1


@pytest.mark.parametrize("change", ["mig", "foreign", "lost", "forgotten"])
def test_a_change_is_noticed_and_mended(node: Node, change: str) -> None:
    node.refresh()
    if change == "mig":
        node.say(GPU + "  MIG 1g.18gb Device 0: (UUID: MIG-1)\n")
    elif change == "foreign":
        node.spec.write_text("nvidia.com/gpu=0\n# by another's hand\n")
    elif change == "lost":
        node.spec.unlink()
    else:
        node.seen.write_text("not JSON")
    stale = cdi.check(node.spec, node.seen, cdi.facts(), ()).stale
    assert stale
    assert node.refresh() and not node.refresh()


def test_other_numbers_of_device_files_are_another_node(node: Node, tmp_path: Path) -> None:
    devices = tmp_path / "dev"
    (devices / "nvidia-caps").mkdir(parents=True)
    before = cdi.facts(devices)
    assert cdi.facts(devices) == before
    (devices / "nvidia0").symlink_to("/dev/null")  # a link is not a device
    assert cdi.facts(devices) == before
    assert cdi.facts(Path("/dev")) == cdi.facts(Path("/dev"))


def test_a_dry_run_says_what_would_change_and_changes_nothing(node: Node) -> None:
    assert node.refresh(dry_run=True)
    assert node.written == 0 and not node.seen.exists()


def test_a_device_that_does_not_exist_is_named(node: Node) -> None:
    with pytest.raises(InputError, match=r"nvidia\.com/gpu=7"):
        node.refresh("nvidia.com/gpu=0", "nvidia.com/gpu=7")


def test_a_driver_that_does_not_answer_ends_in_a_sentence(node: Node) -> None:
    node.program("nvidia-smi", "echo 'Driver/library version mismatch' >&2; exit 18")
    with pytest.raises(ResourceError, match=r"the driver does not answer.*mismatch"):
        node.refresh()


def test_the_command_says_stale_with_its_exit_code(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    places = [f"--spec={node.spec}", f"--seen={node.seen}"]
    assert cdi.main(["check", *places]) == 1
    assert cdi.main(["refresh", *places]) == 0
    assert cdi.main(["check", *places]) == 0
    assert [json.loads(line)["changed"] for line in capsys.readouterr().out.splitlines()] == [False, True, False]
