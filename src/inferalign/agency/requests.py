"""What `agency run` may be asked for: one field a flag, a TOML key and a line of help. Nothing is opened here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from inferalign.engines.remote_http import RemoteOptions
from inferalign.engines.remote_ledger import Ledger, read_prices
from inferalign.engines.remote_names import DEFAULT_KEY

Role = Literal["subject", "judge", "generator", "validator"]


@dataclass(frozen=True, kw_only=True)
class EndpointFlags:
    """How endpoints are used."""

    concurrency: int = 16
    """Calls in flight, of all roles together."""
    rpm: int | None = None
    """Requests a minute to each endpoint, kept in every sliding minute."""
    tpm: int | None = None
    """Tokens a minute to each endpoint, both ways."""
    prices: Path | None = None
    """A TOML file: a table ["MODEL"] each, with input, output and perhaps cached, in USD for a million tokens."""
    budget: float | None = None
    """USD: the run stops before a call that might pass it; it needs prices."""
    key_variable: str = DEFAULT_KEY
    """The environment variable that holds the key."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What servers call the limit of a reply; OpenAI's reasoning models take the second alone."""
    server_sampling: tuple[Role, ...] = ()
    """Roles whose models refuse a temperature and top-p (reasoning models): they are sent none."""
    free_form: bool = False
    """Do not ask servers to hold a judge's, generator's or validator's answer to a JSON schema: some cannot."""
    timeout: float = 600.0
    """Seconds that a call may take."""

    def remote(self) -> RemoteOptions:
        return RemoteOptions(
            key_variable=self.key_variable,
            concurrency=self.concurrency,
            timeout=self.timeout,
            requests_per_minute=self.rpm,
            tokens_per_minute=self.tpm,
            max_tokens_field=self.max_tokens_field,
        )

    def ledger(self) -> Ledger:
        """Raises `InputError` for an unusable price file and for a budget of 0 or less."""
        return Ledger(prices=read_prices(self.prices) if self.prices else {}, budget=self.budget)


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What is measured, and by whom."""

    model: str
    """The subject: MODEL@URL, inspect:PROVIDER/MODEL, `sandbox`, a transformers model directory, or a hub id."""
    run: Path
    """The run folder to write; an unfinished one is taken up where it stopped."""
    judge: tuple[str, ...] = ()
    """`chat:MODEL@URL`, `decisions:DIALECT:MODEL@URL`, `local:DIR`, `self`, `oracle`, `scripted:FILE`; or several."""
    dimension: tuple[str, ...] = ()
    """A dimension's id, or a YAML file of your own; several; none takes all, or those of the items' file."""
    items: str = "bank"
    """`bank` (the shipped 240), a FILE.jsonl, or `sandbox:N`: N requests of the sandbox a dimension."""
    conditions: tuple[str, ...] = ()
    """System prompts: `default` (the dimension's), `none`, `150-words`, FILE.txt; `+followups` adds scripted turns."""
    repeats: int = 1
    """Replies to each item under each condition."""
    judge_repeats: int = 1
    """Verdicts of each judge on each reply."""
    limit: int | None = None
    """Items of each dimension: a seeded draw."""
    seed: int = 0
    """Every draw is derived from it: of items, letters' orders, and a local subject's tokens."""
    procedure: str | None = None
    """How a local subject decodes: `sample` (if none is given), `best-of-n:N`, `rain`, ..."""
    scorer: str | None = None
    """The guide of such a procedure, as for `generate`."""
    temperature: float | None = None
    """Of a local subject; none takes what the dimension says under `sample`, and 1 under other procedures."""
    max_new_tokens: int | None = None
    """Of a local subject's reply; none takes what the dimension says."""
    allow_oracle_guide: bool = False
    """Let the sandbox's ground truth guide a local subject."""
    allow_self_judging: bool = False
    """Let a model judge its own replies."""
    judge_key_variable: str | None = None
    """The environment variable with the judges' key, where it is another."""


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What items are made of, and by whom. Counts are for each dimension."""

    run: Path
    """The run folder to write; an unfinished one is taken up where it stopped. `items.jsonl` in it is the result."""
    generator: str | None = None
    """MODEL@URL: writes the messages."""
    validator: str | None = None
    """MODEL@URL: names the faults of each message."""
    second_validator: str | None = None
    """MODEL@URL: another model that checks a share of them, too; how far the two agree is told and decides nothing."""
    second_share: float = 0.1
    """That share, of each dimension."""
    dimension: tuple[str, ...] = ()
    """A dimension's id, or a YAML file of your own; several; none takes all six."""
    simulate: int = 120
    """Messages to simulate."""
    keep: int | None = None
    """Of the messages that pass validation, so many of the best; none keeps all."""
    select: int = 40
    """Items to choose among those for their difference."""
    min_score: int | None = None
    """Validation points that a message needs; none takes what the dimension says."""
    embed: str = "tfidf"
    """For the choice: `tfidf` (offline), MODEL@URL, or a sentence-transformers model's directory."""
    seed: int = 0
    """Every draw is derived from it."""
    validator_key_variable: str | None = None
    """The environment variable with the validator's key, where it is another."""
    second_key_variable: str | None = None
    """The same of the second validator."""
