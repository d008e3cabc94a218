"""A run from its request to its metrics: items, subject and judges are put together and checked, then `run` works.

`prepare` reads files and parses names, so that most mistakes and the forecast cost nothing; `carry_out` opens models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inferalign.agency.conditions import DEFAULT, NONE, Condition, parse_conditions
from inferalign.agency.estimate import Forecast, forecast
from inferalign.agency.item_source import BANK, Material, check_context, gather
from inferalign.agency.judge_chat import ChatJudgeSettings
from inferalign.agency.judge_table import ROLE, JudgeName, JudgeParts, open_judges, parse_judges
from inferalign.agency.models import Models, check_served, is_served
from inferalign.agency.outcome import Outcome, outcome
from inferalign.agency.records import Reply
from inferalign.agency.requests import EndpointFlags, RunRequest
from inferalign.agency.respond import reply_jobs
from inferalign.agency.run import BASE_DELAY, UNWATCHED, Stages, run
from inferalign.agency.run_folder import COSTS, METRICS, AgencyFolder, run_config
from inferalign.agency.spending import recall
from inferalign.agency.subject import LocalSettings, LocalSubject, RemoteSubject, Subject
from inferalign.core.errors import InputError, RunError
from inferalign.core.files import write_json_atomic
from inferalign.core.jobs import check_concurrency
from inferalign.core.types import Message
from inferalign.engines.remote_ledger import Ledger
from inferalign.engines.table import ModelOptions, is_sandbox
from inferalign.procedures.table import parse

SUBJECT = "subject"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A request that was read and found possible."""

    request: RunRequest
    endpoint: EndpointFlags
    engine: ModelOptions
    material: Material
    conditions: tuple[Condition, ...]
    judges: tuple[JudgeName, ...]
    ledger: Ledger

    @property
    def replies(self) -> int:
        """How many are due."""
        return len(self.material.items) * len(self.conditions) * self.request.repeats

    @property
    def verdicts(self) -> int:
        return self.replies * len(self.judges) * self.request.judge_repeats

    def forecast(self) -> list[Forecast]:
        request = self.request
        return forecast(
            self.material.items,
            self.material.dimensions,
            self.conditions,
            subject=request.model if is_served(request.model) else None,
            judges=self.judges,
            repeats=request.repeats,
            judge_repeats=request.judge_repeats,
            ledger=self.endpoint.ledger(),
        )


def prepare(request: RunRequest, endpoint: EndpointFlags | None = None, engine: ModelOptions | None = None) -> Prepared:
    """Raises `InputError` for whatever can be known to be wrong before a model is opened."""
    endpoint = endpoint or EndpointFlags()
    judges = parse_judges(request.judge)
    if is_served(request.model):
        check_served(request.model)
        _refuse_local_flags(request)
    else:
        parse(request.procedure or "sample")
    for flag, count in (("repeats", request.repeats), ("judge-repeats", request.judge_repeats)):
        if count < 1:
            raise InputError(f"--{flag} {count}: give at least 1")
    check_concurrency(endpoint.concurrency)
    ledger = endpoint.ledger()
    material = gather(request.items, request.dimension, limit=request.limit, seed=request.seed)
    if material.source == BANK and any(judge.kind == "oracle" for judge in judges):
        raise InputError(
            "the oracle knows no truth about the item bank: judge it by a model (--judge chat:MODEL@URL), or take the "
            "sandbox's own requests (--items sandbox:40)"
        )
    for judge in judges:
        if judge.kind not in ("oracle", "scripted"):
            check_context(material.dimensions, material.items, judge.text)
    for role, name in _served(request.model, judges):
        endpoint.ledger().account(role, name)
    texts = request.conditions or (NONE if _is_sandbox_model(request.model) else DEFAULT,)
    return Prepared(
        request=request,
        endpoint=endpoint,
        engine=engine or ModelOptions(),
        material=material,
        conditions=tuple(parse_conditions(texts, material.dimensions)),
        judges=tuple(judges),
        ledger=ledger,
    )


def _served(model: str, judges: Sequence[JudgeName]) -> list[tuple[str, str]]:
    """(role, name) of the models that are asked over a network and whose own names are known before."""
    named = [(SUBJECT, model), *((ROLE, judge.argument) for judge in judges if judge.remote)]
    return [(role, name) for role, name in named if is_served(name) and not name.startswith(("http://", "https://"))]


def _is_sandbox_model(model: str) -> bool:
    return not is_served(model) and is_sandbox(model)


def _refuse_local_flags(request: RunRequest) -> None:
    given = {
        "procedure": request.procedure,
        "temperature": request.temperature,
        "max-new-tokens": request.max_new_tokens,
        "scorer": request.scorer,
        "allow-oracle-guide": request.allow_oracle_guide or None,
    }
    if flags := [name for name, value in given.items() if value is not None]:
        raise InputError(
            f"--{flags[0]} is for local subjects, and {request.model} is an endpoint: leave it out; the dimension's "
            "file says how endpoints are asked"
        )


async def carry_out(
    prepared: Prepared, stages: Stages = UNWATCHED, *, base_delay: float = BASE_DELAY
) -> tuple[dict[str, Any], Outcome]:
    """The run, from where its folder stands to its end: (the metrics, which are in `metrics.json`, too; the means).

    Raises `InputError`, `ModelError` and `RunError` as their names say; what is finished is in the folder then, with
    its costs, and with its metrics where only some of the replies or verdicts failed.
    """
    request, material = prepared.request, prepared.material
    async with Models(prepared.endpoint.remote(), prepared.engine, prepared.ledger) as models:
        subject = await _subject(prepared, models)
        judges = await open_judges(prepared.judges, _parts(prepared, models, subject))
        config = run_config(
            material,
            prepared.conditions,
            {"name": subject.name, **subject.describe()},
            {judge.name: judge.describe() for judge in judges},
            repeats=request.repeats,
            judge_repeats=request.judge_repeats,
            seed=request.seed,
        )
        failed: RunError | None = None
        with AgencyFolder(request.run, config) as folder:
            folder.keep_items(material)
            recorded = folder.recorded()
            _recall(folder, recorded, subject, prepared.ledger)
            due = reply_jobs(material.items, material.dimensions, prepared.conditions, request.repeats, subject.name)
            try:
                await run(
                    list(due),
                    subject,
                    judges,
                    folder,
                    recorded,
                    judge_repeats=request.judge_repeats,
                    concurrency=prepared.endpoint.concurrency,
                    base_delay=base_delay,
                    stages=stages,
                )
            except RunError as error:
                failed = error
            finally:
                costs = prepared.ledger.summary()
                write_json_atomic(request.run / COSTS, costs)
            held = (len(folder.replies.done), sum(len(stage.done) for stage in folder.verdicts.values()))
    metrics, means = outcome(request.run, {name: one.rubric for name, one in material.dimensions.items()})
    metrics |= {"due": prepared.replies, "cost": costs["cost"]}
    write_json_atomic(request.run / METRICS, metrics)
    if failed is not None:
        replies, verdicts = held
        raise RunError(
            f"{str(failed).removesuffix('.')}. {request.run} holds {replies} of {prepared.replies} replies and "
            f"{verdicts} of {prepared.verdicts} verdicts."
        ) from failed
    return metrics, means


async def _subject(prepared: Prepared, models: Models) -> Subject:
    request = prepared.request
    if is_served(request.model):
        client = await models.chat(request.model, SUBJECT)
        return RemoteSubject(client, server_sampling=SUBJECT in prepared.endpoint.server_sampling)
    settings = LocalSettings(
        procedure=request.procedure or "sample",
        scorer=request.scorer or "self",
        seed=request.seed,
        temperature=request.temperature,
        max_tokens=request.max_new_tokens,
        allow_oracle_guide=request.allow_oracle_guide,
    )
    subject = LocalSubject(request.model, models.local(request.model), settings)
    for condition in prepared.conditions:
        for dimension in prepared.material.dimensions.values():
            system = condition.system_prompt(dimension)
            begin = () if system is None else (Message(role="system", content=system),)
            try:
                subject.check((*begin, Message(role="user", content="Hello.")))
            except InputError as error:
                raise InputError(f"condition {condition.name!r}: {error}; or give --conditions {NONE}") from error
    return subject


def _parts(prepared: Prepared, models: Models, subject: Subject) -> JudgeParts:
    request = prepared.request
    chat = ChatJudgeSettings(
        seed=request.seed,
        temperature=None if ROLE in prepared.endpoint.server_sampling else 0.0,
        json_schema=not prepared.endpoint.free_form,
    )
    return JudgeParts(
        dimensions=prepared.material.dimensions,
        models=models,
        subject=request.model,
        subject_name=subject.name,
        allow_self_judging=request.allow_self_judging,
        chat=chat,
        key_variable=request.judge_key_variable,
    )


def _recall(folder: AgencyFolder, recorded: Mapping[str, Reply], subject: Subject, ledger: Ledger) -> None:
    """Books what earlier starts of the run spent, so that a budget is for the run and not for its last start."""
    spent = {(SUBJECT, subject.name): [reply.tokens for reply in recorded.values()]}
    spent |= {(ROLE, judge): tokens for judge, tokens in folder.recorded_tokens().items()}
    recall(ledger, folder.path / COSTS, spent)
