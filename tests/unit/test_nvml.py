"""NVML is asked value by value, and what it says can be recorded and said again."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from engine import nvml, nvml_record
from engine.errors import ResourceError
from tests.nvml_double import DOCUMENTS, NvmlDouble, document

NAMES = sorted(p.stem for p in DOCUMENTS.glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_documents_that_were_not_recorded_say_so_and_name_their_sources(name: str) -> None:
    own = document(name)
    assert own["source"] == "recorded" or ("Not recorded on hardware" in own["note"] and own["documents"])


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_replays_to_the_same_facts(name: str) -> None:
    first = NvmlDouble(document(name)["answers"])
    recorder = nvml_record.Recorder(first)
    seen = nvml.read(recorder)
    again = json.loads(json.dumps(recorder.answers))
    assert nvml.read(NvmlDouble(again)) == seen
    assert first.opened == 0, "NVML is closed again"
    assert not any("*" in key for key in again)


@pytest.mark.parametrize("code", [3, 6, 15, 999])
def test_any_call_may_fail_with_any_word_and_nothing_raises(code: int) -> None:
    """The invariant: an error of one value never hides another value, and its word is kept."""
    answers = document("h200-healthy")["answers"]
    every = [k for k in answers if k not in ("nvmlInit()", "nvmlShutdown()", "nvmlDeviceGetCount()")]
    for key in every:
        seen = nvml.read(NvmlDouble({**answers, key: {"error": code}}))
        assert len(seen.gpus) == 8
        assert seen.gpus[7].name == (None if key == "nvmlDeviceGetName(gpu*)" else "NVIDIA H200")
        words = {w for g in seen.gpus for w in g.errors.values()} | set(seen.errors.values())
        assert nvml.word(pynvml.NVMLError(code)) in words
    all_of_them = {k: {"error": code} for k in every}
    seen = nvml.read(NvmlDouble({**answers, **all_of_them}))
    assert [g.name for g in seen.gpus] == [None] * 8


def test_errors_have_nvmls_own_names() -> None:
    assert nvml.word(pynvml.NVMLError(15)) == "GPU_IS_LOST"
    assert nvml.word(pynvml.NVMLError(18)) == "LIB_RM_VERSION_MISMATCH"
    assert nvml.word(pynvml.NVMLError(777)) == "ERROR_777"


def test_the_real_bindings_on_a_machine_without_a_driver_end_in_a_word() -> None:
    assert nvml.read(pynvml).error == "LIBRARY_NOT_FOUND"


def test_structures_and_bytes_are_recorded_as_plain_values() -> None:
    info = pynvml.c_nvmlMemory_t()
    info.total = 7
    assert nvml_record.plain(info)["total"] == 7
    assert nvml_record.plain([b"text", SimpleNamespace(pid=1)]) == ["text", {"pid": 1}]


def test_recording_without_a_driver_leaves_no_file_and_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"LIBRARY_NOT_FOUND.*Install the driver's libraries"):
        nvml_record.main(["record", str(tmp_path / "out.json")])
    assert not list(tmp_path.iterdir())
