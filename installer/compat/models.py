"""Models as the intake found them, from its notes in the lock."""

from __future__ import annotations

from collections.abc import Iterator

from installer.compat.facts import Facts, Finding


def files(facts: Facts) -> Iterator[Finding]:
    """Nothing that a server reads from the folder stays behind."""
    for advice in facts.advice:
        if advice.rule == "model-files":
            yield Finding(
                "model-files", "warning", f"models/{advice.model}: {advice.what}",
                "Add patterns for them to include of the model, as docs/models.md shows.",
            )  # fmt: skip


def chat_template(facts: Facts) -> Iterator[Finding]:
    """A model that generates text has a chat template."""
    for advice in facts.advice:
        if advice.rule == "chat-template":
            yield Finding(
                "chat-template", "warning", f"models/{advice.model}: {advice.what}",
                "Bring the template along (chat_template.jinja, or chat_template in tokenizer_config.json; is it left out by include?), take the variant that was trained for chats, or offer it for /v1/completions alone.",
            )  # fmt: skip
