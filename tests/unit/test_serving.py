"""What a service was started with, beside what is written for it."""

from __future__ import annotations

from pathlib import Path

from engine.serving import Serving, services


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_service_that_missed_its_restart_is_told_from_one_that_does_not_run(tmp_path: Path) -> None:
    for name in ("chat", "code", "embed"):
        write(tmp_path / f"etc/appliance/vllm/{name}.yaml", "max-model-len: 512\n")
    write(tmp_path / "run/credentials/appliance-vllm@chat.service/config.yaml", "max-model-len: 1024\n")
    write(tmp_path / "run/credentials/appliance-vllm@code.service/config.yaml", "max-model-len: 512\n")
    write(
        tmp_path / "etc/systemd/system/appliance-vllm@code.service.d/instance.conf",
        "[Service]\nEnvironment=TORCHDYNAMO_DISABLE=1\n",
    )
    assert list(services(tmp_path)) == [
        Serving("chat", False, True),
        Serving("code", True, False),
        Serving("embed", None, True),
    ]


def test_a_node_without_services_has_none(tmp_path: Path) -> None:
    assert list(services(tmp_path)) == []
