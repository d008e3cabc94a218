"""How servers of decision models are asked yes-no questions: three dialects, chosen by who runs the server.

    systemone   POST /systemone   {"state", "questions": {name: {"type": "noul", "instructions"}}}
                                  -> {"answers": {name: {"type": "noul", "noul": p}}}; 64 questions a request
    openai      POST /decisions   {"input", "questions": [{"type": "predicate", "name", "instructions"}]}
                                  -> {"answers": [{"type": "predicate", "name", "probability": p}
                                                  or {"type": "refusal", "name"}]}, in order; 400 questions
    sglang      POST /decisions   {"input", "questions": [{"id", "type": "yes_no", "question"}]}
                                  -> {"answers": {id: {"type": "yes_no", "probabilities": {"yes": p, "no": q}}}}

Two of them share a path, so an answer does not tell them apart until it is wrong: a dialect is configured, never
guessed. An answer of another shape is `Unscored`, not an exception and not a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from inferalign.core.types import Unscored

Statements = Mapping[str, str]
"""Name -> what may be true of the state."""
Probabilities = dict[str, float | Unscored]
"""Name -> the probability that the statement is true."""


class Dialect(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str:
        """Below the server's base URL, which ends in /v1."""
        ...

    @property
    def limit(self) -> int:
        """The most questions of one request."""
        ...

    def body(self, state: str, statements: Statements) -> dict[str, Any]:
        """The request, without the model."""
        ...

    def read(self, body: Mapping[str, Any], names: Sequence[str]) -> Probabilities:
        """One answer a name."""
        ...


class SystemOne:
    name = "systemone"
    path = "/systemone"
    limit = 64

    def body(self, state: str, statements: Statements) -> dict[str, Any]:
        questions = {name: {"type": "noul", "instructions": text} for name, text in statements.items()}
        return {"state": state, "questions": questions}

    def read(self, body: Mapping[str, Any], names: Sequence[str]) -> Probabilities:
        answers = _keyed(body)
        return {name: self._one(answers.get(name), name) for name in names}

    def _one(self, answer: Any, name: str) -> float | Unscored:
        if not isinstance(answer, dict) or answer.get("type") != "noul":
            return _no_answer(name, self.name)
        return _probability(answer.get("noul"), name)


class OpenAIDecisions:
    name = "openai"
    path = "/decisions"
    limit = 400

    def body(self, state: str, statements: Statements) -> dict[str, Any]:
        questions = [{"type": "predicate", "name": name, "instructions": text} for name, text in statements.items()]
        return {"input": state, "questions": questions}

    def read(self, body: Mapping[str, Any], names: Sequence[str]) -> Probabilities:
        answers = body.get("answers")
        # The order is what pairs them: an answer too few or too many leaves none that could be trusted.
        if not isinstance(answers, list) or len(answers) != len(names):
            return {name: _no_answer(name, self.name) for name in names}
        return {name: self._one(answer, name) for name, answer in zip(names, answers, strict=True)}

    def _one(self, answer: Any, name: str) -> float | Unscored:
        if not isinstance(answer, dict) or answer.get("name", name) != name:
            return _no_answer(name, self.name)
        if answer.get("type") == "refusal":
            return Unscored(f"the judge refused to answer for issue {name}", blame="judge")
        if answer.get("type") != "predicate":
            return _no_answer(name, self.name)
        return _probability(answer.get("probability"), name)


class SGLangDecisions:
    name = "sglang"
    path = "/decisions"
    limit = 64
    """SGLang states none in every version; this keeps requests as small as System One's."""

    def body(self, state: str, statements: Statements) -> dict[str, Any]:
        questions = [{"id": name, "type": "yes_no", "question": text} for name, text in statements.items()]
        return {"input": state, "questions": questions}

    def read(self, body: Mapping[str, Any], names: Sequence[str]) -> Probabilities:
        answers = _keyed(body)
        return {name: self._one(answers.get(name), name) for name in names}

    def _one(self, answer: Any, name: str) -> float | Unscored:
        if not isinstance(answer, dict) or answer.get("type") != "yes_no":
            return _no_answer(name, self.name)
        shares = answer.get("probabilities")
        if not isinstance(shares, dict):
            return _no_answer(name, self.name)
        return _probability(shares.get("yes"), name)


DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect for dialect in (SystemOne(), OpenAIDecisions(), SGLangDecisions())
}


def _keyed(body: Mapping[str, Any]) -> Mapping[str, Any]:
    answers = body.get("answers")
    return answers if isinstance(answers, dict) else {}


def _probability(value: Any, name: str) -> float | Unscored:
    # Not isinstance: to Python, true is an int. The comparison refuses a NaN.
    if type(value) not in (int, float) or not 0.0 <= value <= 1.0:
        return Unscored(f"the judge's answer for issue {name} is no probability", blame="judge")
    return float(value)


def _no_answer(name: str, dialect: str) -> Unscored:
    return Unscored(
        f"the server gave no answer for issue {name} in the dialect {dialect!r}: is that the one it speaks?",
        blame="judge",
    )
