"""The error tree. A message says what was given, what was expected, and what to type.

    InferalignError
    |-- InputError(ValueError)          a file, line, flag or prompt that cannot be used
    |   |-- UnknownName                 with a did-you-mean
    |   `-- ContextOverflow             a prompt that does not fit the model
    |-- ModelError(OSError)             no weights, pickle-only weights, wrong tokenizer, unusable labels
    |-- EngineError(RuntimeError)       a request that failed
    |   `-- TransientError              ... and may succeed when repeated (the only one that is retried)
    |-- ScoringError(RuntimeError)      nothing could be scored, or a mean of nothing was asked for
    `-- RunError(RuntimeError)          a run folder that is locked, full, torn or made by another configuration

Third-party errors are mapped to these at the seam where they enter, with `raise ... from`.
"""

from __future__ import annotations


class InferalignError(Exception):
    """The root: everything this package raises on purpose."""


class InputError(InferalignError, ValueError):
    """A file, line, flag or prompt that cannot be used."""


class UnknownName(InputError):
    """A name that is not in a table."""


class ContextOverflow(InputError):
    """A prompt that leaves no room for an answer."""


class ModelError(InferalignError, OSError):
    """A model or tokenizer that cannot be loaded or used."""


class EngineError(InferalignError, RuntimeError):
    """A request that an engine could not serve."""


class TransientError(EngineError):
    """A request that may succeed when repeated."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        """`retry_after`: seconds that the server asks to wait before a repeat; None when it does not say."""
        super().__init__(message)
        self.retry_after = retry_after


class ScoringError(InferalignError, RuntimeError):
    """Nothing could be scored."""


class RunError(InferalignError, RuntimeError):
    """A run folder that cannot be used as asked."""
