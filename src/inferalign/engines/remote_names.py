"""What an endpoint is called: a model's name and a URL, and the variable that its key is in."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from inferalign.core.errors import InputError

DEFAULT_KEY = "OPENAI_API_KEY"


class RemoteName(NamedTuple):
    model: str | None
    """None: the endpoint serves one model, which it is asked for."""
    url: str
    """Without a slash at its end."""


def is_remote(name: str) -> bool:
    """Whether a model's name means an endpoint: `MODEL@URL` or `URL`, with http:// or https://."""
    return re.match(r"(.+@)?https?://", name) is not None


def parse_name(name: str) -> RemoteName:
    """Reads `MODEL@URL` or `URL`. Raises `InputError` for anything else, and for a URL with a password or a query."""
    found = re.fullmatch(r"(?:(?P<model>.+?)@)?(?P<url>https?://\S+)", name)
    if found is None:
        # A URL may hold a password, so no more is repeated than comes before it.
        shown = name.partition("://")[0]
        raise InputError(f"{shown!r} names no endpoint: type MODEL@URL, such as gpt-x@https://api.example.com/v1")
    model, url = found["model"], found["url"].rstrip("/")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"the URL after {model!r} cannot be read ({error}): check it") from error
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise InputError(
            "an endpoint's URL holds a user, a password or a query: leave them out, and put the key in the "
            f"environment variable {DEFAULT_KEY}, or in another that you name"
        )
    if not host:
        raise InputError(f"{url!r} has no host: type a URL such as https://api.example.com/v1")
    # Written alike, since an endpoint is known by its URL: its limits, and whether a judge is the subject.
    port = {"http": ":80", "https": ":443"}[parts.scheme]
    return RemoteName(model, parts._replace(netloc=parts.netloc.lower().removesuffix(port)).geturl())


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine by its name alone."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
