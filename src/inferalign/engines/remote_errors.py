"""What a failed HTTP call means, in the words of the error tree: the one place where statuses are read.

    408, 409, 425, 429, 5xx   TransientError, with the server's Retry-After
    401, 403                  InputError: the key
    404                       InputError: the path or the model
    400 about the context     ContextOverflow
    anything else             EngineError

A message is one line; the server's own words are shortened in it, and the key is taken out. It knows no HTTP library.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from inferalign.core.errors import ContextOverflow, EngineError, InferalignError, InputError, TransientError

MAX_RETRY_AFTER = 600.0
"""Seconds: a server that asks for more is left alone."""
_TRANSIENT = {408, 409, 425, 429}
_SHOWN = 240
_SECRET = re.compile(r"\b(sk|xai|gsk|hf)[-_][\w*-]{6,}|Bearer\s+\S+", re.IGNORECASE)


def status_error(
    status: int, headers: Mapping[str, str], body: bytes, *, url: str, key: str | None, key_advice: str
) -> InferalignError:
    """The error of a response that is not a 200.

    Args:
        headers: case-insensitive.
        key: taken out of what the server says.
        key_advice: what to do about a refused key.
    """
    said, code = _said(body, key)
    told = f"{url} answered {status}{': ' if said else ''}{said}"
    if status == 429 and code == "insufficient_quota":
        return EngineError(f"{told}. The account has no credit left: waiting does not help")
    if status in _TRANSIENT or (status >= 500 and status != 501):
        wait = retry_after(headers)
        if wait is not None and wait > MAX_RETRY_AFTER:
            return EngineError(f"{told}. It asks to wait {wait:.0f} s: repeat the command after that")
        return TransientError(told, retry_after=wait)
    if status in (401, 403):
        return InputError(f"{told}. {key_advice}")
    if status == 404:
        return InputError(f"{told}. Check the URL, which usually ends in /v1, and the model's name")
    if 300 <= status < 400:
        return InputError(f"{told}. It redirects to {one_line(headers.get('Location', '?'), key)}: name that URL")
    if code == "context_length_exceeded" or (status in (400, 413, 422) and _about_context(said)):
        return ContextOverflow(told)
    return EngineError(told)


def _about_context(said: str) -> bool:
    lowered = said.lower()
    return "context" in lowered and ("length" in lowered or "window" in lowered or "size" in lowered)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait: `retry-after-ms`, or `Retry-After` as seconds or as a date; None when absent or unreadable."""
    for name, unit in (("retry-after-ms", 1000.0), ("Retry-After", 1.0)):
        try:
            seconds = float(headers.get(name, "nan")) / unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(seconds, 0.0)
    try:
        # Both dates are the server's own, so that its clock need not agree with ours.
        due, now = (parsedate_to_datetime(headers[name]) for name in ("Retry-After", "Date"))
        return max((due - now).total_seconds(), 0.0)
    except (KeyError, ValueError, TypeError):
        return None


def _said(body: bytes, key: str | None) -> tuple[str, str]:
    """The server's message, and its error code, out of the shapes that are in use."""
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        text = re.sub(r"<[^>]*>", " ", body[:4096].decode("utf-8", "replace"))  # an HTML page of a proxy
        return one_line(text, key), ""
    error = value.get("error", value) if isinstance(value, dict) else value
    if not isinstance(error, dict):
        return one_line(str(error), key), ""
    words = error.get("message") or error.get("detail") or error
    return one_line(words if isinstance(words, str) else json.dumps(words), key), str(error.get("code") or "")


def one_line(text: str, key: str | None) -> str:
    """What a server said as one short line, without the key or anything that looks like one."""
    if key:
        text = text.replace(key, "***")
    text = " ".join(_SECRET.sub("***", text).split())
    text = "".join(c for c in text if c.isprintable())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."
