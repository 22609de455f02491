"""The drop-in of a replica: its own GPUs and CPUs and nobody else's, in words that systemd understands."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from engine.errors import InputError
from engine.placement import record
from engine.placement.model import Gpu, Place
from tests.unit.test_unit_exposure import MOST, ROLES, exposure, render

TEMPLATES = ROLES / "vllm/templates"
ITEM: dict[str, Any] = {"name": "chat", "served_name": "llama", "model": "/srv/models/m", "devices": ["nvidia"]}
TWO = Place("chat", "chat", (Gpu("GPU-a", 5, 3), Gpu("GPU-b", 6, 7)), (), 1)


def filters() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vllm_filters", ROLES / "vllm/filter_plugins/vllm.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FILTERS = filters()


def drop_in(*places: Place, **item: Any) -> list[str]:
    said = json.dumps(record.document(places))
    text = render(
        TEMPLATES / "instance.conf.j2", item={**ITEM, **item}, appliance_vllm_places=FILTERS.vllm_places(said)
    )
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_a_replica_opens_its_own_gpus_alone() -> None:
    lines = drop_in(TWO, Place("embed", "embed", (Gpu("GPU-c", 0, 0),)))
    assert [line for line in lines if line.startswith("DeviceAllow=")] == [
        "DeviceAllow=/dev/nvidia3 rw", "DeviceAllow=/dev/nvidia7 rw", "DeviceAllow=/dev/nvidiactl rw",
        "DeviceAllow=/dev/nvidia-uvm rw", "DeviceAllow=/dev/nvidia-uvm-tools rw",
    ]  # fmt: skip
    assert "Environment=CUDA_VISIBLE_DEVICES=GPU-a,GPU-b" in lines and "DevicePolicy=closed" in lines
    assert {"CPUAffinity=numa", "NUMAPolicy=preferred", "NUMAMask=1"} <= set(lines)


def test_a_service_without_gpus_of_its_own_has_all_as_before() -> None:
    lines = drop_in()
    assert [line for line in lines if line.startswith("DeviceAllow=")] == ["DeviceAllow=char-nvidia* rw"]
    assert not [line for line in lines if line.startswith(("CPUAffinity", "NUMA")) or "CUDA_VISIBLE_DEVICES" in line]


def test_what_another_service_is_given_changes_nothing_of_this_one() -> None:
    others = [Place("embed", "embed", (Gpu("GPU-c", 0, 0),)), Place("rank", "rank", (), (4,))]
    assert drop_in(TWO) == drop_in(TWO, *others)


def test_a_service_on_cpus_has_its_own_and_no_device() -> None:
    lines = drop_in(Place("chat", "chat", (), (0, 2)), devices=[])
    assert "CPUAffinity=0 2" in lines
    assert not [line for line in lines if line.startswith(("Device", "PrivateDevices", "NUMA"))]


@pytest.mark.parametrize(
    "place", [TWO, Place("chat", "chat", (), (0, 1), 0), Place("chat", "chat", (Gpu("GPU-a", 0, 0),), (4, 5))]
)
def test_systemd_understands_it_and_the_sandbox_stays(place: Place, tmp_path: Path) -> None:
    units = tmp_path / "etc/systemd/system"
    (units / "appliance-vllm@chat.service.d").mkdir(parents=True)
    (units / "appliance-vllm@chat.service").write_text(render(TEMPLATES / "appliance-vllm@.service.j2"))
    text = "\n".join(drop_in(place))
    (units / "appliance-vllm@chat.service.d/instance.conf").write_text(text)
    assert exposure(tmp_path, "appliance-vllm@chat.service") <= MOST
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"--root={tmp_path}", "appliance-vllm@chat.service"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "instance.conf" not in done.stderr, done.stderr
    (units / "appliance-vllm@chat.service.d/instance.conf").write_text(f"{text}\nNUMAMask=none\n")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"--root={tmp_path}", "appliance-vllm@chat.service"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "instance.conf" in done.stderr, "a value that systemd does not understand is named"


def test_only_replicas_that_ask_are_asked_for() -> None:
    given = [
        {**ITEM, "gpus": [0, 1], "service": "chat"},
        {**ITEM, "name": "b", "cpus": 2},
        {**ITEM, "name": "c", "gpus": 0, "cpus": 0},
    ]
    assert FILTERS.vllm_asks(given) == [
        {"name": "chat", "service": "chat", "gpus": [0, 1], "cpus": 0}, {"name": "b", "service": "b", "gpus": 0, "cpus": 2},
    ]  # fmt: skip
    assert record.asks(json.dumps(FILTERS.vllm_asks(given)).encode())[0].indexes == (0, 1)


def test_what_the_node_answered_is_kept_as_its_record_and_nothing_stands_for_no_answer() -> None:
    said = json.dumps(record.document([TWO]))
    assert record.places(FILTERS.vllm_record(said).encode(), "x") == record.document([TWO])["places"]
    assert FILTERS.vllm_places("") == {} == FILTERS.vllm_places(None) and FILTERS.vllm_record("") == ""
    with pytest.raises(InputError, match="cannot be read"):
        FILTERS.vllm_places("[]")
