"""Models from a directory and from a hub, through all four verbs."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, constants

from engine.blobs import Blobs
from engine.errors import InputError, TrustError, UpstreamError
from engine.report import Silent
from installer import lockfile, tinymodel
from installer.cli.main import main
from installer.definition import Definition
from installer.kinds import Work, models
from installer.lockfile import Artifact
from tests.integration.hub_double import REVISION, TOKEN, HubDouble, Repo, running

TINY = tinymodel.contents(seed=0)
REPO = "maker/tiny"
ACCEPTED = {"by": "Ada Lovelace", "on": "2026-11-02", "terms": "Tiny Licence 1"}


@dataclass
class Heard(Silent):
    """Remembers what was said."""

    lines: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.lines.append(text)


def work_for(base: Path, **model: Any) -> Work:
    definition = Definition.model_validate(
        {
            "schema": 1, "name": "try", "version": "1.0.0",
            "target": {"os": "debian-12", "python": "3.11"},
            "models": [{"name": "tiny", "profiles": ["gpu"], **model}],
        }
    )  # fmt: skip
    return Work(definition, base, Blobs(base / "cache"), Heard())


def heard(work: Work) -> list[str]:
    assert isinstance(work.report, Heard)
    return work.report.lines


def folder(base: Path, files: dict[str, bytes] | None = None) -> Path:
    for name, data in (TINY if files is None else files).items():
        path = base / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return base / "model"


def build(work: Work, artifacts: list[Artifact], content: Path) -> dict[str, bytes]:
    """The verbs after resolve; returns what was laid out below models/tiny."""
    models.fetch(work, artifacts)
    models.check(work, artifacts)
    models.lay_out(work, artifacts, content)
    root = content / "models/tiny"
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# -- from a directory -------------------------------------------------------------------------
def test_a_folder_crosses_whole_and_unchanged(tmp_path: Path) -> None:
    folder(tmp_path)
    work = work_for(tmp_path, path="model")
    artifacts = models.resolve(work)
    assert build(work, artifacts, tmp_path / "content") == TINY
    weights = next(a for a in artifacts if a.path == "models/tiny/model.safetensors")
    assert weights.sha256 == hashlib.sha256(TINY["model.safetensors"]).hexdigest()
    assert weights.size == len(TINY["model.safetensors"])
    assert weights.source == (tmp_path / "model/model.safetensors").as_uri()
    assert {(a.kind, a.group, a.name, a.licence, a.profiles) for a in artifacts} == {
        ("models", "tiny", "tiny", "Apache-2.0", ("gpu",))
    }
    assert heard(work) == []


def test_the_version_of_a_folder_follows_its_content(tmp_path: Path) -> None:
    directory = folder(tmp_path)
    before = {a.version for a in models.resolve(work_for(tmp_path, path="model"))}
    assert before == {a.version for a in models.resolve(work_for(tmp_path, path="model"))}
    (directory / "README.md").write_text("---\nlicense: mit\n---\n")
    after = {a.version for a in models.resolve(work_for(tmp_path, path="model"))}
    assert len(before) == len(after) == 1
    assert before != after


def test_hidden_files_and_other_types_stay_outside(tmp_path: Path) -> None:
    folder(tmp_path, TINY | {".git/config": b"secret", ".cache/huggingface/x.json": b"{", "loss.png": b"\x89PNG"})
    work = work_for(tmp_path, path="model")
    artifacts = models.resolve(work)
    assert {a.path.removeprefix("models/tiny/") for a in artifacts} == TINY.keys()
    assert heard(work) == ["model tiny: left out, not of a type that may cross: loss.png"]


def test_a_symlinked_shard_is_refused_and_named(tmp_path: Path) -> None:
    directory = folder(tmp_path)
    (tmp_path / "elsewhere.safetensors").write_bytes(TINY["model.safetensors"])
    (directory / "model-2.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(TrustError, match=r"model-2\.safetensors: it is a symbolic link"):
        models.resolve(work_for(tmp_path, path="model"))


def test_a_linked_directory_is_refused_and_named(tmp_path: Path) -> None:
    directory = folder(tmp_path)
    (directory / "more").symlink_to("/etc")
    with pytest.raises(TrustError, match="more: it is a symbolic link"):
        models.resolve(work_for(tmp_path, path="model"))


def test_a_socket_is_refused_without_opening_it(tmp_path: Path) -> None:
    directory = folder(tmp_path)
    os.mkfifo(directory / "pipe.json")  # opening it would hang
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "s.json"))
        with pytest.raises(TrustError) as caught:
            models.resolve(work_for(tmp_path, path="model"))
    assert "pipe.json: it is a socket, pipe or device" in caught.value.what
    assert "s.json: it is a socket, pipe or device" in caught.value.what


def test_waivers_are_in_the_lock_beside_the_files_that_need_them(tmp_path: Path) -> None:
    folder(tmp_path, TINY | {"modeling.py": b"print()", "old.bin": b"\x80\x02."})
    waivers = [
        {"rule": "python", "reason": "reviewed by A. Person on 2026-11-02"},
        {"rule": "pickle", "reason": "kept for the audit, never loaded"},
        {"rule": "licence", "reason": "a contract covers it, no. 4711"},
    ]
    work = work_for(tmp_path, path="model", waivers=waivers)
    artifacts = models.resolve(work)
    notes = {a.path.removeprefix("models/tiny/"): a.notes for a in artifacts if a.notes}
    assert notes == {
        "modeling.py": ("waiver python: reviewed by A. Person on 2026-11-02 (it is code)",),
        "old.bin": ("waiver pickle: kept for the audit, never loaded (its format can run code when it is loaded)",),
    }
    assert "reviewed by A. Person" in lockfile.dump(lockfile.make(work.definition, artifacts))
    assert heard(work) == ["model tiny: the waiver for licence is not needed; remove it from the definition"]
    assert build(work, artifacts, tmp_path / "content")["modeling.py"] == b"print()"


def test_a_folder_that_changed_after_it_was_locked_is_refused(tmp_path: Path) -> None:
    directory = folder(tmp_path)
    work = work_for(tmp_path, path="model")
    artifacts = models.resolve(work)
    changed = TINY["model.safetensors"][:-1] + b"\x7f"
    (directory / "model.safetensors").write_bytes(changed)
    with pytest.raises(TrustError, match="not what was promised") as caught:
        models.fetch(work, artifacts)
    assert "model.safetensors" in caught.value.where
    assert not work.cache.has(hashlib.sha256(changed).hexdigest(), len(changed))


def test_a_lock_edited_to_smuggle_a_file_is_refused_before_it_is_laid_out(tmp_path: Path) -> None:
    directory = folder(tmp_path)
    work = work_for(tmp_path, path="model")
    artifacts = models.resolve(work)
    for name, message in {"run.py": "run.py: it is code", "tool.sh": "may not cross: tool.sh"}.items():
        (directory / name).write_bytes(b"echo")
        smuggled = artifacts[0].model_copy(
            update={
                "path": f"models/tiny/{name}", "size": 4, "sha256": hashlib.sha256(b"echo").hexdigest(),
                "source": (directory / name).as_uri(),
            }
        )  # fmt: skip
        models.fetch(work, [*artifacts, smuggled])
        with pytest.raises(TrustError, match=message):
            models.check(work, [*artifacts, smuggled])


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such model directory") as caught:
        models.resolve(work_for(tmp_path, path="nowhere"))
    assert caught.value.where == str(tmp_path / "nowhere")


# -- from a hub -------------------------------------------------------------------------------
@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubDouble]:
    with running() as double:
        monkeypatch.setenv("HF_ENDPOINT", double.endpoint)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        yield double


def hub_work(base: Path, **model: Any) -> Work:
    return work_for(base, hub=REPO, revision=REVISION, **model)


def test_a_repository_crosses_whole_and_only_headers_of_weights_travel_to_lock_it(
    hub: HubDouble, tmp_path: Path
) -> None:
    files = TINY | {".gitattributes": b"*.safetensors filter=lfs", "sub dir/größe.txt": b"text"}
    hub.repos[REPO] = Repo(files, large=frozenset({"tokenizer.json"}))
    work = hub_work(tmp_path)
    artifacts = models.resolve(work)
    header = 8 + int.from_bytes(TINY["model.safetensors"][:8], "little")
    assert sum(r.sent for r in hub.of("storage")) == 8 + header + len(TINY["tokenizer.json"])
    assert {a.path.removeprefix("models/tiny/"): a.sha256 for a in artifacts} == {
        name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != ".gitattributes"
    }
    assert {a.version for a in artifacts} == {REVISION}
    assert {a.source for a in artifacts if a.path.endswith("/config.json")} == {
        f"{hub.endpoint}/{REPO}/resolve/{REVISION}/config.json"
    }
    built = build(work, artifacts, tmp_path / "content")
    assert built == {name: data for name, data in files.items() if name != ".gitattributes"}


def test_what_lock_read_is_not_fetched_again(hub: HubDouble, tmp_path: Path) -> None:
    hub.repos[REPO] = Repo(TINY)
    work = hub_work(tmp_path)
    artifacts = models.resolve(work)
    hub.requests.clear()
    models.fetch(work, artifacts)
    assert [r.path.rpartition("/")[2] for r in hub.of("hub")] == ["model.safetensors"]
    hub.requests.clear()
    models.fetch(work, artifacts)
    assert hub.requests == []


def test_include_takes_what_it_names(hub: HubDouble, tmp_path: Path) -> None:
    hub.repos[REPO] = Repo(TINY | {"pytorch_model.bin": b"\x80\x02.", "modeling.py": b"import os"})
    work = hub_work(tmp_path, include=["*.safetensors", "*.json", "LICENSE"])
    names = {a.path.removeprefix("models/tiny/") for a in models.resolve(work)}
    assert names == TINY.keys() - {"README.md"}


def test_code_in_a_repository_is_refused_before_any_weights_travel(hub: HubDouble, tmp_path: Path) -> None:
    config = json.dumps({"auto_map": {"AutoModel": "modeling.Tiny"}}).encode()
    hub.repos[REPO] = Repo(TINY | {"config.json": config, "modeling.py": b"import os"})
    with pytest.raises(TrustError) as caught:
        models.resolve(hub_work(tmp_path))
    assert "config.json: auto_map makes a loader run the model's own code [rule auto-map]" in caught.value.what
    assert "modeling.py: it is code [rule python]" in caught.value.what
    assert "waivers: [{rule: auto-map, reason: WHY}]" in caught.value.remedy
    assert sum(r.sent for r in hub.of("storage")) < len(TINY["model.safetensors"]) // 10


def test_a_malformed_header_is_refused_without_downloading_the_weights(hub: HubDouble, tmp_path: Path) -> None:
    weights = TINY["model.safetensors"]
    hub.repos[REPO] = Repo(TINY | {"model.safetensors": weights + bytes(1 << 20)})
    with pytest.raises(TrustError, match=r"model\.safetensors: not a sound safetensors file") as caught:
        models.resolve(hub_work(tmp_path))
    assert "There is no waiver" in caught.value.remedy
    assert sum(r.sent for r in hub.of("storage")) < 1 << 16


def test_wrong_bytes_of_the_right_size_are_refused_and_named(hub: HubDouble, tmp_path: Path) -> None:
    hub.repos[REPO] = Repo(TINY)
    work = hub_work(tmp_path)
    artifacts = models.resolve(work)
    hub.repos[REPO].faults["model.safetensors"] = "wrong"
    with pytest.raises(TrustError, match="not what was promised") as caught:
        models.fetch(work, artifacts)
    assert "model.safetensors" in caught.value.where
    weights = next(a for a in artifacts if a.path.endswith(".safetensors"))
    assert not work.cache.has(weights.sha256, weights.size)


def test_a_small_file_with_other_bytes_than_the_commit_has_is_refused_at_lock(hub: HubDouble, tmp_path: Path) -> None:
    hub.repos[REPO] = Repo(TINY, faults={"config.json": "wrong"})
    with pytest.raises(TrustError, match="other bytes than the commit has") as caught:
        models.resolve(hub_work(tmp_path))
    assert caught.value.where.startswith("config.json from ")


def test_a_connection_that_ends_half_way_is_continued(hub: HubDouble, tmp_path: Path) -> None:
    hub.repos[REPO] = Repo(TINY, faults={"tokenizer.json": "end"})
    work = hub_work(tmp_path)
    artifacts = models.resolve(work)
    half = len(TINY["tokenizer.json"]) // 2
    assert [r.range.partition("-")[0] for r in hub.of("hub", "resolve-cache/models/maker/tiny/" + REVISION + "/tokenizer.json")] == [
        "bytes=0", f"bytes={half}",
    ]  # fmt: skip
    hub.repos[REPO].faults["model.safetensors"] = "end"
    hub.requests.clear()
    assert build(work, artifacts, tmp_path / "content") == TINY
    half = len(TINY["model.safetensors"]) // 2
    assert [r.range for r in hub.of("storage")] == ["", f"bytes={half}-"]


def test_a_connection_that_is_reset_half_way_is_survived(hub: HubDouble, tmp_path: Path) -> None:
    hub.repos[REPO] = Repo(TINY, faults={"config.json": "reset"})
    work = hub_work(tmp_path)
    artifacts = models.resolve(work)
    hub.repos[REPO].faults["model.safetensors"] = "reset"
    assert build(work, artifacts, tmp_path / "content") == TINY
    assert hub.repos[REPO].faults == {}


# -- who may read, and who hears the token ------------------------------------------------------
def test_the_token_goes_to_the_hub_and_nowhere_else(
    hub: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.repos[REPO] = Repo(TINY, access="private")
    work = hub_work(tmp_path)
    artifacts = models.resolve(work)
    assert build(work, artifacts, tmp_path / "content") == TINY
    assert {r.authorization for r in hub.requests if r.server == "hub"} == {f"Bearer {TOKEN}"}
    assert hub.of("storage")
    assert {r.authorization for r in hub.requests if r.server == "storage"} == {""}
    assert TOKEN not in lockfile.dump(lockfile.make(work.definition, artifacts))
    assert "X-Signature" not in lockfile.dump(lockfile.make(work.definition, artifacts))


def test_a_token_for_another_hub_is_not_sent_to_the_locked_one(
    hub: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos[REPO] = Repo(TINY)
    work = hub_work(tmp_path)
    artifacts = models.resolve(work)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert build(work, artifacts, tmp_path / "content") == TINY
    assert {r.authorization for r in hub.requests} == {""}


def test_the_token_file_of_the_hubs_client_is_read(
    hub: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    hub.repos[REPO] = Repo(TINY, access="gated")
    assert models.resolve(hub_work(tmp_path, accepted=ACCEPTED))


@pytest.mark.parametrize("token", ["", "hf_OfSomeoneElse"])
def test_a_gated_repository_says_what_to_do(
    hub: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.repos[REPO] = Repo(TINY, access="gated")
    with pytest.raises(UpstreamError, match="gated and this account has no access") as caught:
        models.resolve(hub_work(tmp_path, accepted=ACCEPTED))
    assert "Accept its terms" in caught.value.remedy
    assert not token or token not in str(caught.value)


def test_a_gated_model_needs_a_record_of_who_accepted_its_terms(
    hub: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.repos[REPO] = Repo(TINY, access="gated")
    with pytest.raises(InputError, match=r"gated \(auto\) and the definition has no record") as caught:
        models.resolve(hub_work(tmp_path))
    assert "accepted: {by:" in caught.value.remedy
    assert not hub.of("storage")
    work = hub_work(tmp_path, accepted=ACCEPTED)
    artifacts = models.resolve(work)
    assert {a.notes for a in artifacts} == {
        ("gated: auto", "terms accepted by Ada Lovelace on 2026-11-02: Tiny Licence 1")
    }
    assert build(work, artifacts, tmp_path / "content") == TINY


def test_access_withdrawn_between_lock_and_build_says_so(hub: HubDouble, tmp_path: Path) -> None:
    hub.repos[REPO] = Repo(TINY)
    work = hub_work(tmp_path)
    artifacts = models.resolve(work)
    hub.repos[REPO].access = "gated"
    with pytest.raises(UpstreamError, match="gated and this account has no access"):
        models.fetch(work, artifacts)


@pytest.mark.parametrize("token", ["", "hf_OfSomeoneElse"])
def test_a_private_repository_looks_like_none(
    hub: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.repos[REPO] = Repo(TINY, access="private")
    with pytest.raises(UpstreamError, match="no such repository, or does not show it") as caught:
        models.resolve(hub_work(tmp_path))
    assert "HF_TOKEN" in caught.value.remedy


def test_a_commit_that_is_not_there_is_named(hub: HubDouble, tmp_path: Path) -> None:
    hub.repos[REPO] = Repo(TINY, revision="f" * 40)
    with pytest.raises(UpstreamError, match="no such commit") as caught:
        models.resolve(hub_work(tmp_path))
    assert REVISION[:12] in caught.value.where


def test_a_hub_that_answers_for_another_commit_is_refused(hub: HubDouble, tmp_path: Path) -> None:
    hub.repos[REPO] = Repo(TINY, answers_for="f" * 40)
    with pytest.raises(UpstreamError, match="answers for another commit"):
        models.resolve(hub_work(tmp_path))


@pytest.mark.parametrize("path", ["config.json", "model.safetensors"])
def test_a_redirect_loop_ends(hub: HubDouble, tmp_path: Path, path: str) -> None:
    hub.repos[REPO] = Repo(TINY, faults={path: "loop"})
    with pytest.raises(UpstreamError, match="redirects") as caught:
        models.resolve(hub_work(tmp_path))
    assert caught.value.remedy
    assert len(hub.requests) < 60


def test_a_file_that_vanished_is_named(hub: HubDouble, tmp_path: Path) -> None:
    hub.repos[REPO] = Repo(dict(TINY))
    work = hub_work(tmp_path)
    artifacts = models.resolve(work)
    del hub.repos[REPO].files["model.safetensors"]
    with pytest.raises(UpstreamError, match="no longer has a file of this commit"):
        models.fetch(work, artifacts)


def test_a_hub_that_is_away_is_named(hub: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(UpstreamError, match="does not answer as a hub") as caught:
        models.resolve(hub_work(tmp_path))
    assert caught.value.where.startswith(address)


def test_signed_addresses_of_a_storage_that_is_away_are_not_shown(hub: HubDouble, tmp_path: Path) -> None:
    hub.repos[REPO] = Repo(TINY)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        hub.storage = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UpstreamError, match=r"cannot read model\.safetensors") as caught:
        models.resolve(hub_work(tmp_path))
    assert "X-Signature" not in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("http://hub.example", "clear text"),
        ("https://user:secret@hub.example", "without user, password"),
        ("ftp://hub.example", "must be an address"),
    ],
)
def test_an_endpoint_that_would_leak_is_refused_before_it_is_asked(
    hub: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str, message: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(InputError, match=message) as caught:
        models.resolve(hub_work(tmp_path))
    assert "secret" not in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_the_double_speaks_to_the_hubs_own_client(hub: HubDouble, tmp_path: Path) -> None:
    hub.repos[REPO] = Repo(TINY)
    api = HfApi(endpoint=hub.endpoint)
    for name in ("config.json", "model.safetensors"):
        got = api.hf_hub_download(REPO, name, revision=REVISION, local_dir=tmp_path / "client")
        assert Path(got).read_bytes() == TINY[name]


# -- the command line ---------------------------------------------------------------------------
def appliance(capfd: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as ended:
        main(["model", *argv])
    assert isinstance(ended.value.code, int)
    return ended.value.code, *capfd.readouterr()


def test_demo_writes_a_model_that_check_accepts(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = appliance(capfd, "demo", str(tmp_path / "tiny"), "--json")
    assert code == 0
    assert json.loads(out)["files"] == {name: len(data) for name, data in TINY.items()}
    code, out, err = appliance(capfd, "check", str(tmp_path / "tiny"))
    assert code == 0
    assert "may cross" in err
    assert "licence Apache-2.0" in err
    assert all(name in out for name in TINY)


def test_check_ends_with_3_and_names_what_it_refuses(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    directory = folder(tmp_path, TINY | {"modeling.py": b"", "loss.png": b""})
    code, out, err = appliance(capfd, "check", str(directory))
    assert code == 3
    assert "modeling.py" in out
    assert "it is code" in out
    assert "waivers: [{rule: python, reason: WHY}]" in err
    code, out, err = appliance(capfd, "check", str(directory), "--json")
    assert code == 3
    document = json.loads(out)
    assert document["refused"] == [{"path": "modeling.py", "rule": "python", "reason": "it is code"}]
    assert document["left_out"] == ["loss.png"]
    assert document["accepted"] is False
    assert "waivers" in document["remedy"]
    assert err == ""


def test_check_of_no_directory_ends_with_2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = appliance(capfd, "check", str(tmp_path / "nowhere"))
    assert code == 2
    assert "no such model directory" in err
