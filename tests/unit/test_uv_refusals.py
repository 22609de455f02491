"""What uv ends with is told by what is to be mended: the requirements (exit 2), or a source that does not answer (exit 4)."""

from __future__ import annotations

import pytest

from engine.errors import ApplianceError, Exit
from engine.process import ProcessError
from installer.definition import Target, WheelSet
from installer.kinds import uvresolve
from installer.network.pipconfig import PipConfig

INDEX = "http://mirror.test/simple"
FAILED = f"Failed to fetch: {INDEX}/six/\n"
SENDING = f"  cause: error sending request for url ({INDEX}/six/)\n"


def refused(monkeypatch: pytest.MonkeyPatch, said: str, *, pip: str = "") -> tuple[int, str]:
    """Exit code and message of a lock where uv said this on standard error."""

    def run(argv: list[str], **_: object) -> None:
        raise ProcessError([str(a) for a in argv], 2, said)

    monkeypatch.setattr(uvresolve, "run", run)
    wheels = WheelSet(name="small", requirements=("six",), indexes=() if pip else (INDEX,), profiles=("gpu",))
    with pytest.raises(ApplianceError) as error:
        uvresolve.resolve(wheels, Target(os="debian-12", python="3.11"), PipConfig(index=pip, find_links=()))
    return error.value.exit_code, str(error.value)


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("  cause: client error (Connect)\n  cause: tcp connect error\n  cause: Connection refused (os error 111)", "Connection refused (os error 111)"),
        ("  cause: dns error\n  cause: failed to lookup address information: Name or service not known", "failed to lookup address information: Name or service not known"),
        ("  cause: client error (Connect)\n  cause: invalid peer certificate: UnknownIssuer", "invalid peer certificate: UnknownIssuer"),
        ("  cause: operation timed out", "operation timed out"),
        ("  cause: client error (SendRequest)\n  cause: connection closed before message completed", "connection closed before message completed"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("begin", ["error: ", "error: Request failed after 3 retries in 10.5s\n  cause: "])
def test_an_index_that_cannot_be_reached_is_named(
    monkeypatch: pytest.MonkeyPatch, begin: str, said: str, cause: str
) -> None:
    code, message = refused(monkeypatch, begin + FAILED + SENDING + said + "\n")
    assert code == Exit.UPSTREAM
    assert f"wheels: small: the index {INDEX} does not answer: {cause}. Check" in message
    assert "requirements" not in message


@pytest.mark.parametrize(
    "status",
    ["server error (500 Internal Server Error)", "server error (503 Service Unavailable)", "client error (429 Too Many Requests)"],
)  # fmt: skip
def test_an_index_that_answers_with_a_failure_is_named(monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    said = f"error: {FAILED}  cause: HTTP status {status} for url ({INDEX}/six/)\n"
    code, message = refused(monkeypatch, said)
    assert code == Exit.UPSTREAM
    assert f"the index {INDEX} does not answer: HTTP status {status}. Check" in message


def test_the_login_of_an_index_and_the_signature_of_a_link_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "error: Failed to fetch: {0}\n  cause: HTTP status server error (500 Internal Server Error) for url ({0})\n"
    code, message = refused(monkeypatch, said.format("https://cdn.test/six.whl?X-Amz-Signature=planted"))
    assert code == Exit.UPSTREAM
    assert "the source https://cdn.test/six.whl does not answer" in message
    assert "planted" not in message
    with_login = "http://bob:planted@mirror.test/simple/"
    _, message = refused(monkeypatch, "error: " + FAILED + SENDING, pip=with_login)
    assert f"the index {INDEX}/ does not answer" in message
    assert "planted" not in message


def test_links_that_cannot_be_read_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    said = (
        "error: Failed to read `--find-links` URL: http://127.0.0.1:1/l\n  cause: Connection refused (os error 111)\n"
    )
    code, message = refused(monkeypatch, said)
    assert code == Exit.UPSTREAM
    assert "the source http://127.0.0.1:1/l does not answer: Connection refused" in message


def test_requirements_without_a_solution_stay_an_error_of_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "error: No solution found when resolving dependencies\n  cause: Because six was not found …\n"
    code, message = refused(monkeypatch, said)
    assert code == Exit.USAGE
    assert "the requirements have no solution" in message
