"""A site that serves what its release lacks is refused in the control host, with every service named."""

from __future__ import annotations

import pytest

from engine.errors import InputError
from engine.trust import Target
from installer.site.holds import demand
from tests.unit.test_preflight_site import site


def targets(*paths: str) -> dict[str, Target]:
    return {p: Target(p, 1, "0" * 64) for p in paths}


WHOLE = targets("content/models/m/config.json", "content/models/m/model-00001-of-00002.safetensors")


def test_a_release_with_the_model_is_taken() -> None:
    demand(site(), "ours-1.0.0", WHOLE)


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (targets("content/models/llama/config.json"), r"chat serves m, and ours-1.0.0 holds no such model \(it holds: llama\)"),
        (targets("content/files/a"), r"holds no such model \(it holds: none\)"),
        (targets("content/models/m/config.json", "content/models/m/original/a.safetensors"), "holds no config.json or no"),
        (targets("content/models/m/a.safetensors"), "holds no config.json or no"),
    ],
)  # fmt: skip
def test_what_a_release_lacks_is_named(held: dict[str, Target], said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        demand(site(), "ours-1.0.0", held)
    assert "add the model to the definition" in error.value.remedy
