"""The sentence that a person needs, out of what a service that does not start writes (vLLM 0.32)."""

from __future__ import annotations

import pytest

from engine.why import reason, remedy

TOO_LONG = """\
(APIServer pid=412) INFO 11-30 09:12:30 [api_server.py:2044] vLLM API server version 0.32.0
(APIServer pid=412) Traceback (most recent call last):
(APIServer pid=412)   File "<frozen runpy>", line 198, in _run_module_as_main
(APIServer pid=412) pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
(APIServer pid=412)   Value error, User-specified max_model_len (16384) is greater than the derived max_model_len (max_position_embeddings=2048). [type=value_error, input_value=ArgsKwargs((), {'model': 'x'}), input_type=ArgsKwargs]
(APIServer pid=412)     For further information visit https://errors.pydantic.dev/2.12/v/value_error
"""
NO_ROOM = """\
(EngineCore pid=77) ERROR 11-30 09:12:33 [core.py:842] Traceback (most recent call last):
(EngineCore pid=77) ERROR 11-30 09:12:33 [core.py:842] ValueError: To serve at least one request, 4.0 GiB KV cache is needed, which is larger than the available 1.0 GiB.
(APIServer pid=70) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
UNKNOWN = "usage: api_server.py [options]\napi_server.py: error: unrecognized arguments: --max-modell-len 5\n"


@pytest.mark.parametrize(
    ("said", "why", "what_to_do"),
    [
        (TOO_LONG, "User-specified max_model_len (16384) is greater than the derived", "Lower max-model-len"),
        (NO_ROOM, "ValueError: To serve at least one request, 4.0 GiB KV cache is needed", "KV cache more memory"),
        (UNKNOWN, "unrecognized arguments: --max-modell-len 5", "Correct args"),
        (
            "appliance-vllm@tiny.service: Failed to set up user namespacing: Operation not permitted\n"
            "appliance-vllm@tiny.service: Failed at step USER spawning /opt/x: Operation not permitted\n"
            "appliance-vllm@tiny.service: Failed with result 'exit-code'.\n",
            "Failed to set up user namespacing: Operation not permitted",
            "systemd",
        ),
        (
            "appliance-vllm@tiny.service: A process of this unit has been killed by the OOM killer.\n",
            "A process of this unit has been killed by the OOM killer",
            "more memory",
        ),
        ("ImportError\n", "ImportError", "Correct the service"),
    ],
)
def test_the_error_that_came_first_is_the_reason(said: str, why: str, what_to_do: str) -> None:
    found = reason(said.splitlines())
    assert found.startswith(why) and "type=value_error" not in found and "root cause" not in found
    assert what_to_do in remedy(found)


def test_a_journal_without_an_error_gives_no_reason() -> None:
    assert reason(["(APIServer pid=1) INFO 11-30 09:12:30 [api_server.py:1] fine", ""]) == ""
