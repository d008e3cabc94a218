"""What the mock server answers, from the content of a request alone: no clock, no order, no attempt comes in.

Shapes as in OpenAI's chat, completions, embeddings and decisions, SGLang's decisions, System One, and vLLM's token ids.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Body = dict[str, Any]
WORDS = """
the a question answer choice yours perhaps first then because learn try ask tell know people time think
small large step reason number example friend work plan start check source doubt sure again other way
""".split()  # noqa: SIM905, as text it can be read
RUBRIC_LINE = re.compile(r"^[ \t]*(?:[-*][ \t]*)?(?:\*\*)?([A-Z])(?:\*\*)?[.):][ \t]+(\S.*)$", re.MULTILINE)
FENCED = re.compile(r"^===== (?P<code>\w+) begin: .*\n(?P<text>(?s:.*?))\n===== (?P=code) end =====$", re.MULTILINE)
BRACKETS = re.compile(r"^<{5,}\n((?s:.*?))\n>{5,}$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the server does; each is a flag of the command."""

    port: int = 0
    """0 takes a free one."""
    models: str = "mock-1"
    """Served, separated by commas; a request for another gets a 404. Empty serves any."""
    latency: float = 0.0
    """Seconds before every answer."""
    errors: float = 0.0
    """Share of requests that fail, before the tenth attempt."""
    faults: str = "429,500,drop"
    """How they fail, separated by commas, equally often: of 429, 500, drop, hang, garbage."""
    retry_after: float = 0.0
    """Seconds that a 429 asks to wait."""
    requests_per_minute: int = 0
    """In any 60 seconds; what comes on top gets a 429 and counts as over the limit. 0 does not limit."""
    judge: bool = True
    """Answer prompts with rubric letters by a verdict."""
    issues: float = 0.25
    """Share of rubric lines that a verdict names."""
    malformed: float = 0.0
    """Share of verdicts and decisions that are no good; the same ones at every attempt."""
    empty: float = 0.0
    """Share of chat answers without text and with the finish "length", as hidden reasoning leaves them."""
    refusals: float = 0.0
    """Share of answers that are refusals (chat, and OpenAI's decisions)."""
    decisions: Literal["openai", "sglang"] = "openai"
    """The dialect of /v1/decisions."""
    key: str = ""
    """When set, any other bearer token gets a 401 that repeats the token."""


def unit(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:7], "little") / 2**56


def token_count(text: str) -> int:
    return len(text) // 4 + 1


class Refused(Exception):
    """A request that gets an error status."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Answers:
    """One method a path: the JSON of a request to the JSON of its answer. Raises `Refused`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def chat(self, body: Body) -> Body:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise Refused(400, "messages is missing")
        said = "\n".join(f"{m['role']}: {m['content']}" for m in messages)
        schema = ((body.get("response_format") or {}).get("json_schema") or {}).get("schema")
        text, reason, refusal = self._reply(said, str(messages[-1]["content"]), body.get("seed"), schema)
        limit = body.get("max_tokens", body.get("max_completion_tokens"))
        if limit is not None and token_count(text) > limit:
            text, reason = text[: 4 * (limit - 1)], "length"
        message = {"role": "assistant", "content": text if refusal is None else None, "refusal": refusal}
        return {
            "id": f"chatcmpl-{unit('id', said):.12f}",
            "object": "chat.completion",
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": _usage(token_count(said), token_count(text)),
        }

    def _reply(self, said: str, last: str, seed: object, schema: Body | None) -> tuple[str, str, str | None]:
        """The text, why it ends, and a refusal in the text's place."""
        if unit("refusal", said) < self.settings.refusals:
            return "", "stop", "I cannot help with that."
        if unit("empty", said) < self.settings.empty:
            return "", "length", None
        rubric = rubric_of(last)
        if self.settings.judge and rubric and (schema is None or "issues" in schema.get("properties", {})):
            return verdict(last, rubric, self.settings), "stop", None
        if schema is not None:
            return json.dumps(conforming(schema, said, seed)), "stop", None
        return words(12 + int(28 * unit("length", said, seed)), said, seed), "stop", None

    def completion(self, body: Body) -> Body:
        prompt, limit = body.get("prompt"), int(body.get("max_tokens", 16))
        given_ids = isinstance(prompt, list)
        ids = prompt if given_ids else [token_count(str(prompt))]
        if not all(isinstance(i, int) for i in ids):
            raise Refused(400, "prompt must be a string or a list of token ids")
        n = min(limit, 1 + int(20 * unit("n", prompt, body.get("seed"))))
        drawn = [int(1000 * unit("token", prompt, body.get("seed"), i)) for i in range(n)]
        choice: Body = {
            "index": 0,
            "text": " ".join(WORDS[i % len(WORDS)] for i in drawn),
            "finish_reason": "length" if n == limit else "stop",
            "logprobs": None,
        }
        if body.get("logprobs") is not None:
            choice["logprobs"] = {"token_logprobs": [-4.0 * unit("logprob", prompt, i) for i in range(n)]}
        if body.get("return_token_ids"):
            choice |= {"token_ids": drawn, "prompt_token_ids": ids if given_ids else None}
        return {
            "id": "cmpl-mock",
            "object": "text_completion",
            "model": body["model"],
            "choices": [choice],
            "usage": _usage(len(ids), n),
        }

    def embeddings(self, body: Body) -> Body:
        texts = [body["input"]] if isinstance(body.get("input"), str) else body.get("input")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise Refused(400, "input must be a string or a list of strings")
        data = [{"object": "embedding", "index": i, "embedding": bag(text)} for i, text in enumerate(texts)]
        total = sum(map(token_count, texts))
        usage = {"prompt_tokens": total, "total_tokens": total}
        return {"object": "list", "model": body["model"], "data": data, "usage": usage}

    def system_one(self, body: Body) -> Body:
        state, questions = body.get("state"), body.get("questions")
        if not state or not isinstance(questions, dict) or not 1 <= len(questions) <= 64:
            raise Refused(400, "state, and 1 to 64 questions by name, are needed")
        answers = {}
        for name, question in questions.items():
            kind, asked = question.get("type"), (state, question.get("instructions"))
            if kind == "noul":
                answers[name] = {"type": kind, "noul": round(unit(*asked), 4)}
            elif kind in ("choice", "score"):
                options = list(question["criteria"]) if kind == "choice" else range(len(question["criteria"]))
                shares = _shares(asked, options)
                best = max(shares, key=shares.__getitem__)
                value = best if kind == "choice" else sum(level * p for level, p in shares.items())
                answers[name] = {"type": kind, kind: value, "confidence": shares[best], "probabilities": _keyed(shares)}
            else:
                raise Refused(400, f"question {name!r} has the type {kind!r}: noul, choice or score")
        if unit("malformed", state) < self.settings.malformed:
            answers.popitem()  # "could not be answered" is a missing key
        return {"model": body["model"], "answers": answers, "usage": _decision_usage(body)}

    def decisions(self, body: Body) -> Body:
        given, questions = body.get("input"), body.get("questions")
        if not given or not isinstance(questions, list) or not 1 <= len(questions) <= 400:
            raise Refused(400, "input, and a list of 1 to 400 questions, are needed")
        if self.settings.decisions == "sglang":
            return self._sglang(body, str(given), questions)
        answers = [self._predicate(str(given), question) for question in questions]
        if unit("malformed", given) < self.settings.malformed:
            answers.pop()
        usage = _decision_usage(body)
        usage |= {"input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0}}
        usage |= {"output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": usage["input_tokens"]}
        return {"object": "decision", "model": body["model"], "answers": answers, "usage": usage}

    def _predicate(self, given: str, question: Body) -> Body:
        kind, name, asked = question.get("type"), question.get("name"), (given, question.get("instructions"))
        if kind not in ("predicate", "choice", "score"):
            raise Refused(400, f"question {name!r} has the type {kind!r}: predicate, choice or score")
        if unit("refusal", *asked) < self.settings.refusals:
            return {"type": "refusal", "name": name}
        if kind == "predicate":
            return {"type": kind, "name": name, "probability": round(unit(*asked), 4)}
        options = question["choices"] if kind == "choice" else question["levels"]
        keys = [o["value"] for o in options] if kind == "choice" else range(len(options))
        shares = _shares(asked, keys)
        best = max(shares, key=shares.__getitem__)
        listed = [{"value": key, "probability": p} for key, p in shares.items()]
        if kind == "score":
            listed = [{**one, "label": o["label"]} for one, o in zip(listed, options, strict=True)]
        value = best if kind == "choice" else sum(level * p for level, p in shares.items())
        return {"type": kind, "name": name, kind: value, "confidence": shares[best], "probabilities": listed}

    def _sglang(self, body: Body, given: str, questions: list[Body]) -> Body:
        answers: dict[str, Body] = {}
        for question in questions:
            if question.get("type") != "yes_no" or not question.get("id"):
                raise Refused(400, f"question {question.get('id')!r}: this mock takes an id and the type yes_no")
            p = round(unit(given, question.get("question")), 4)
            answers[question["id"]] = {"type": "yes_no", "probabilities": {"yes": p, "no": 1 - p}, "label_mass": 0.97}
        if unit("malformed", given) < self.settings.malformed:
            answers.popitem()
        total = token_count(json.dumps(body))
        usage = {"prompt_tokens": total, "total_tokens": total, "completion_tokens": 0}
        return {"model": body["model"], "prompt_format_version": 1, "answers": answers, "usage": usage}


def words(n: int, *keys: object) -> str:
    """n words that depend on the keys alone, as a sentence."""
    digest = hashlib.shake_128("\x1f".join(map(str, keys)).encode()).digest(n)
    return " ".join(WORDS[byte % len(WORDS)] for byte in digest).capitalize() + "."


def rubric_of(prompt: str) -> list[tuple[str, str]]:
    """(letter, issue) of the first run of lines `A: what is wrong`, `A. ...`, `- **A**) ...`; two lines or more."""
    run: list[tuple[str, str]] = []
    for line in prompt.split("\n"):
        if found := RUBRIC_LINE.match(line):
            run.append((found[1], found[2]))
        elif len(run) > 1:
            break
        else:
            run = []
    return run if len(run) > 1 else []


def judged_text(prompt: str) -> str:
    """What is between the last fences, `=====` with a code or angle brackets; the prompt without rubric if none."""
    fenced = [match["text"] for match in FENCED.finditer(prompt)] or [match[1] for match in BRACKETS.finditer(prompt)]
    return fenced[-1] if fenced else "\n".join(sorted(RUBRIC_LINE.sub("", prompt).split("\n")))


def verdict(prompt: str, rubric: Sequence[tuple[str, str]], settings: Settings) -> str:
    """A judge's JSON. Whether an issue is named depends on its words and the judged text, not on letter or order."""
    judged = judged_text(prompt)
    # An issue may refer to another by its letter, which the order changes.
    named = {letter: re.sub(r"\b[A-Z]\b", "", issue).strip() for letter, issue in rubric}
    found = sorted(letter for letter, issue in named.items() if unit("issue", issue, judged) < settings.issues)
    text = json.dumps({"assessment": words(10, judged), "issues": found})
    if unit("malformed", judged) >= settings.malformed:
        return text
    spoilt = (text[:-9], json.dumps({"assessment": "fine"}), words(12, judged), text.replace("issues", "issue"))
    return spoilt[int(unit("how", judged) * len(spoilt))]


def conforming(schema: Body, *keys: object) -> Any:
    """A value of the shape that a JSON schema asks for, as its keys decide; for the schemas that this project sends."""
    if "enum" in schema:
        return schema["enum"][int(unit("enum", *keys) * len(schema["enum"]))]
    kind = schema.get("type")
    if kind == "object":
        return {name: conforming(part, name, *keys) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        inner = schema.get("items", {})
        if "enum" in inner:
            return [value for value in inner["enum"] if unit("in", value, *keys) < 0.25]
        return [conforming(inner, i, *keys) for i in range(schema.get("minItems", 1))]
    if kind in ("integer", "number"):
        low, high = schema.get("minimum", 0), schema.get("maximum", 1)
        drawn = low + (high - low) * unit("number", *keys)
        return int(drawn) if kind == "integer" else drawn
    return unit("yes", *keys) < 0.5 if kind == "boolean" else words(12 + int(28 * unit("length", *keys)), *keys)


def bag(text: str, size: int = 64) -> list[float]:
    """A unit vector: how often each word occurs, at a place that is its hash."""
    vector = [0.0] * size
    for word in re.findall(r"\w+", text.lower()):
        vector[int(unit("word", word) * size)] += 1.0
    norm = sum(x * x for x in vector) ** 0.5 or 1.0
    return [x / norm for x in vector]


def _usage(prompt: int, completion: int) -> Body:
    total = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {**total, "prompt_tokens_details": {"cached_tokens": prompt // 4}}


def _decision_usage(body: Mapping[str, Any]) -> Body:
    return {"input_tokens": token_count(json.dumps(body)), "output_tokens": 0}


def _shares(asked: tuple[object, ...], options: Sequence[Any] | range) -> dict[Any, float]:
    weights = {option: unit(*asked, option) + 1e-3 for option in options}
    return {option: weight / sum(weights.values()) for option, weight in weights.items()}


def _keyed(shares: dict[Any, float]) -> Any:
    """By name for a choice, in order for a score."""
    return shares if all(isinstance(key, str) for key in shares) else list(shares.values())
