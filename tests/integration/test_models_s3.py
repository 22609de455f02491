"""Models from an S3-compatible store that checks every signature."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import numpy

from engine.blobs import Blobs
from engine.errors import InputError, TrustError, UpstreamError
from engine.report import Silent
from installer import lockfile
from installer.definition import S3
from installer.kinds import Work, models
from installer.network.host import Network
from installer.s3 import Store
from tests.integration.s3site import BUCKET, REGION, Site, serve
from tests.integration.test_models import TINY, build, heard, work_for

WEIGHTS = "model.safetensors"
READER = ("s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serve(tmp_path_factory.mktemp("s3") / "log") as site:
        site.authorize(False)
        site.client().create_bucket(Bucket=BUCKET)
        site.client().create_bucket(Bucket="versioned")
        site.client().put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
        site.key, site.secret = site.user("owner", "s3:*")
        yield site


@pytest.fixture
def store(server: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Site:
    """The tiny model in the bucket, a reader's credentials in a credentials file, and every request checked."""
    server.authorize(False)
    server.faults.clear()
    for name, data in TINY.items():
        server.put(f"team/tiny/{name}", data)
    key, secret = server.user(f"reader-{tmp_path.name}", *READER)
    (tmp_path / "credentials").write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server.authorize(True)
    server.requests.clear()
    return server


def as_user(monkeypatch: pytest.MonkeyPatch, key: str, secret: str) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)


def work(base: Path, site: Site, cache: str = "", **place: str) -> Work:
    where = {"endpoint": site.endpoint, "bucket": BUCKET, "prefix": "team/tiny", "region": REGION, **place}
    made = work_for(base, s3=where)
    made.cache.root = base / f"cache{cache}"
    return made


def test_a_folder_of_a_store_crosses_whole_and_no_credential_is_written_down(store: Site, tmp_path: Path) -> None:
    mine = work(tmp_path, store)
    artifacts = models.resolve(mine)
    weights = next(a for a in artifacts if a.path.endswith(WEIGHTS))
    assert weights.sha256 == hashlib.sha256(TINY[WEIGHTS]).hexdigest()
    assert weights.source == f"{store.endpoint}/{BUCKET}/team/tiny/{WEIGHTS}"
    other_builder = work(tmp_path, store, cache="-2")
    assert build(other_builder, artifacts, tmp_path / "content") == TINY
    secrets = [line.partition(" = ")[2] for line in (tmp_path / "credentials").read_text().splitlines()[1:]]
    said = lockfile.dump(lockfile.make(mine.definition, artifacts)) + "".join(heard(mine))
    assert len(secrets) == 2
    assert not any(s in said for s in (*secrets, "Signature", "X-Amz"))
    assert not any("X-Amz" in path for _method, path, _range in store.requests)  # headers sign, addresses do not


def test_code_is_refused_before_any_weights_travel(store: Site, tmp_path: Path) -> None:
    store.put("team/tiny/run.py", b"print()")
    with pytest.raises(TrustError, match=r"run\.py: it is code"):
        models.resolve(work(tmp_path, store))
    asked = [r for _m, path, r in store.requests if path.endswith(WEIGHTS) and r]
    store.client(key=store.key, secret=store.secret).delete_object(Bucket=BUCKET, Key="team/tiny/run.py")
    assert all(int(r.rpartition("-")[2]) < len(TINY[WEIGHTS]) // 2 for r in asked)


def test_an_object_changed_after_the_lock_is_refused_and_named(store: Site, tmp_path: Path) -> None:
    artifacts = models.resolve(work(tmp_path, store))
    store.put(f"team/tiny/{WEIGHTS}", TINY[WEIGHTS][:-1] + b"!")
    with pytest.raises(TrustError, match=WEIGHTS) as caught:
        models.fetch(work(tmp_path, store, cache="-2"), artifacts)
    assert "The source changed" in caught.value.remedy


def test_a_versioned_bucket_still_serves_what_was_locked(store: Site, tmp_path: Path) -> None:
    client = store.client(key=store.key, secret=store.secret)
    for name, data in TINY.items():
        client.put_object(Bucket="versioned", Key=name, Body=data)
    artifacts = models.resolve(work(tmp_path, store, bucket="versioned", prefix=""))
    assert all("?versionId=" in a.source for a in artifacts)
    client.put_object(Bucket="versioned", Key=WEIGHTS, Body=b"newer")
    mine = work(tmp_path, store, cache="-2", bucket="versioned", prefix="")
    assert build(mine, artifacts, tmp_path / "content") == TINY
    version = next(a for a in artifacts if a.path.endswith(WEIGHTS)).source.rpartition("=")[2]
    client.delete_object(Bucket="versioned", Key=WEIGHTS, VersionId=version)
    with pytest.raises(UpstreamError, match=rf"{WEIGHTS}: the store no longer has an object"):
        models.fetch(work(tmp_path, store, cache="-3", bucket="versioned", prefix=""), artifacts)


def test_wrong_bytes_of_the_right_size_are_refused(store: Site, tmp_path: Path) -> None:
    artifacts = models.resolve(work(tmp_path, store))
    store.faults[WEIGHTS] = "wrong"
    mine = work(tmp_path, store, cache="-2")
    with pytest.raises(TrustError, match=f"{WEIGHTS} from .*not what was promised"):
        models.fetch(mine, artifacts)
    locked = next(a for a in artifacts if a.path.endswith(WEIGHTS))
    assert not mine.cache.has(locked.sha256, locked.size)


@pytest.mark.parametrize("when", ["lock", "build"])
def test_a_connection_reset_half_way_is_continued(when: str, store: Site, tmp_path: Path) -> None:
    large = numpy.save({"weight": np.zeros(1 << 20, dtype=np.float32)})  # more than the reader takes at once
    store.put(f"team/tiny/{WEIGHTS}", large)
    if when == "lock":
        store.faults[WEIGHTS] = "reset"
    artifacts = models.resolve(work(tmp_path, store))
    if when == "build":
        store.faults[WEIGHTS] = "reset"
    assert build(work(tmp_path, store, cache="-2"), artifacts, tmp_path / "content") == TINY | {WEIGHTS: large}
    assert store.faults == {}
    starts = [int(r[6:].partition("-")[0]) for m, p, r in store.requests if m == "GET" and p.endswith(WEIGHTS) and r]
    assert any(start > 0 for start in starts)


def test_access_denied_says_what_to_grant(store: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts = models.resolve(work(tmp_path, store))
    store.authorize(False)
    key, secret = store.user(f"nobody-{tmp_path.name}")
    store.authorize(True)
    as_user(monkeypatch, key, secret)
    for verb in (
        lambda: models.resolve(work(tmp_path, store)),
        lambda: models.fetch(work(tmp_path, store, cache="-2"), artifacts),
    ):
        with pytest.raises(UpstreamError, match="the store refuses access") as caught:
            verb()
        assert "s3:GetObject" in caught.value.remedy
        assert secret not in str(caught.value)


def test_a_wrong_secret_is_told_apart(store: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_user(monkeypatch, store.key, "not-the-secret")
    with pytest.raises(UpstreamError, match=r"does not take these credentials \(SignatureDoesNotMatch\)"):
        models.resolve(work(tmp_path, store))


def test_what_is_not_there_is_named(store: Site, tmp_path: Path) -> None:
    artifacts = models.resolve(work(tmp_path, store))
    store.client(key=store.key, secret=store.secret).delete_object(Bucket=BUCKET, Key=f"team/tiny/{WEIGHTS}")
    with pytest.raises(UpstreamError, match=rf"{WEIGHTS}: the store no longer has an object"):
        models.fetch(work(tmp_path, store, cache="-2"), artifacts)
    with pytest.raises(UpstreamError, match="no objects there"):
        models.resolve(work(tmp_path, store, prefix="team/absent"))
    with pytest.raises(UpstreamError, match="no such bucket"):
        models.resolve(work(tmp_path, store, bucket="absent"))


def test_no_credentials_and_clear_text_are_refused(
    store: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="clear text"):
        models.resolve(work(tmp_path, store, endpoint="http://192.0.2.1:9000"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "absent"))
    with pytest.raises(InputError, match="no credentials for the store"):
        models.resolve(work(tmp_path, store))


@pytest.mark.parametrize("place", [{"endpoint": "https://user:secret@store.example"}, {"secret_key": "x"}])
def test_a_definition_has_no_room_for_credentials(place: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="s3"):
        work_for(tmp_path, s3={"endpoint": "https://store.example", "bucket": "models", **place})


def test_a_redirect_to_another_host_gets_no_signature_and_no_session_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard_headers: list[dict[str, str]] = []

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

        def do_GET(self) -> None:
            heard_headers.append(dict(self.headers.items()))
            self.send_response(302 if self.path.startswith("/models/") else 200)
            self.send_header("Location", f"http://localhost:{listener.server_port}/else")  # another host by name
            self.send_header("Content-Length", "0")
            self.end_headers()

    as_user(monkeypatch, "AKIAEXAMPLE", "the-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the-session-token")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as listener:
        threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
        endpoint = f"http://127.0.0.1:{listener.server_port}"
        store = Store(S3(endpoint=endpoint, bucket=BUCKET), Network())
        address = f"{endpoint}/{BUCKET}/x"
        with store.downloader(Blobs(tmp_path), Silent()).open(address, store.headers(address)):
            pass
        listener.shutdown()
    first, second = heard_headers
    assert first["X-Amz-Security-Token"] == "the-session-token"
    assert "the-secret" not in str(first)
    assert "the-session-token" not in str(second)
    assert not {"Authorization", "X-Amz-Security-Token"} & second.keys()
