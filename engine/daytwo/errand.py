"""Run one errand on this node and print its result as one line of JSON."""

from __future__ import annotations

import importlib
import json
import sys

from engine.errors import ApplianceError

VERBS = {
    "look": "engine.daytwo.look",
    "collect": "engine.daytwo.collect",
    "remove": "engine.daytwo.remove",
    "certify": "engine.daytwo.certify",
    "states": "engine.daytwo.states",
}


def run(verb: str, question: str, word: str) -> None:
    """Answer ``question`` (JSON); ``word`` marks the line that is the answer. A refusal is an answer, too."""
    try:
        answer = importlib.import_module(VERBS[verb]).answer(json.loads(question))
    except ApplianceError as error:
        answer = {"error": {"what": error.what, "where": error.where, "remedy": error.remedy}}
    except OSError as error:  # what this node lacks is for a person to read, not for a traceback
        answer = {"error": {"what": str(error), "where": str(error.filename or ""), "remedy": "Look at the node."}}
    sys.stdout.write(word + " answer " + json.dumps(answer) + "\n")
    sys.stdout.flush()
