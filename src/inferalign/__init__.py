"""inferalign: align a language model for the way it is decoded, and while it is decoded.

The public names load on first use (PEP 562), so that `import inferalign` costs no more than a bare interpreter.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inferalign.api import agenerate, generate, stream
    from inferalign.core.errors import InferalignError
    from inferalign.core.types import Candidate, Completion, Message, Piece, Prompt, Result, Score, Unscored, Usage
    from inferalign.custom_generate import rain

__version__ = "0.1.0"

_HOMES = {
    "Candidate": "inferalign.core.types",
    "Completion": "inferalign.core.types",
    "InferalignError": "inferalign.core.errors",
    "Message": "inferalign.core.types",
    "Piece": "inferalign.core.types",
    "Prompt": "inferalign.core.types",
    "Result": "inferalign.core.types",
    "Score": "inferalign.core.types",
    "Unscored": "inferalign.core.types",
    "Usage": "inferalign.core.types",
    "agenerate": "inferalign.api",
    "generate": "inferalign.api",
    "rain": "inferalign.custom_generate",
    "stream": "inferalign.api",
}

__all__ = [
    "Candidate",
    "Completion",
    "InferalignError",
    "Message",
    "Piece",
    "Prompt",
    "Result",
    "Score",
    "Unscored",
    "Usage",
    "agenerate",
    "generate",
    "rain",
    "stream",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'inferalign' has no attribute {name!r}; it has: {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
