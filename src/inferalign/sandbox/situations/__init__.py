"""The eight situations of the sandbox, by name."""

from __future__ import annotations

from inferalign.sandbox.situations.boundaries import BOUNDARIES
from inferalign.sandbox.situations.clarify import CLARIFY
from inferalign.sandbox.situations.decisions import DECISIONS
from inferalign.sandbox.situations.errands import BENIGN, HARMFUL
from inferalign.sandbox.situations.learning import LEARNING
from inferalign.sandbox.situations.misinformation import MISINFORMATION
from inferalign.sandbox.situations.situation import Request, Situation
from inferalign.sandbox.situations.values import VALUES

SITUATIONS: dict[str, Situation] = {
    situation.name: situation
    for situation in (
        HARMFUL,
        BENIGN,
        CLARIFY,
        VALUES,
        MISINFORMATION,
        DECISIONS,
        LEARNING,
        BOUNDARIES,
    )
}

__all__ = ["SITUATIONS", "Request", "Situation"]
