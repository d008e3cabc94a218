"""Items from a generator and a validator: simulate, validate, keep and select, resumably, into one file.

RUN/config.json   what decides the items
RUN/calls         a run folder of the generator's calls
RUN/validations   ... of the validator's verdicts
RUN/second        ... of a second validator's, on a sample
RUN/costs.json    calls and tokens by role and model, and what they cost
RUN/items.jsonl   the selected items of every dimension, as `agency run --items` reads them
RUN/metrics.json  what became of every message, and how the selection covers the rest

A stage's folder holds to what decides its own records. What only decides the choice among them (`--keep`, `--select`,
`--min-score`, `--embed`), more messages and a second validator can be asked for later: nothing paid for is lost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

from inferalign.agency.dimension import Dimension, load_shipped
from inferalign.agency.embed import Embedder, EndpointEmbedder, SentenceTransformersEmbedder, TfidfEmbedder
from inferalign.agency.estimate import Forecast, forecast_build
from inferalign.agency.item_source import load_dimensions
from inferalign.agency.items import write_items
from inferalign.agency.judge import hashes
from inferalign.agency.keep import Agreement, Kept, agreement, keep, second_sample
from inferalign.agency.models import Models, check_served, run_wide
from inferalign.agency.pool import Pool, gather
from inferalign.agency.records import Item
from inferalign.agency.requests import BuildRequest, EndpointFlags
from inferalign.agency.run import ATTEMPTS, BASE_DELAY
from inferalign.agency.run_folder import COSTS, METRICS, forget_empty
from inferalign.agency.select import Selection, select
from inferalign.agency.simulate import (
    Example,
    GenerationCall,
    SimulateSettings,
    own_examples,
    plan_call,
    shipped_themes,
    simulate,
)
from inferalign.agency.spending import recall
from inferalign.agency.validate import (
    ValidateSettings,
    Validation,
    ValidationJob,
    read_validation,
    validate,
    validation_record,
)
from inferalign.core.config import to_dict
from inferalign.core.environment import environment
from inferalign.core.errors import InputError
from inferalign.core.files import write_json_atomic
from inferalign.core.group_sync import GroupSync
from inferalign.core.jobs import QUIET, HasId, Progress, check_concurrency, run_jobs
from inferalign.core.records import RunFolder, read_records
from inferalign.engines.chat_api import ChatClient
from inferalign.engines.remote_http import is_remote
from inferalign.engines.remote_ledger import Ledger
from inferalign.engines.table import ModelOptions

GENERATOR, VALIDATOR, EMBEDDER = "generator", "validator", "embedder"
CALLS, VALIDATIONS, SECOND, ITEMS_FILE = "calls", "validations", "second", "items.jsonl"
_WHAT = {CALLS: "calls of the generator", VALIDATIONS: "validations", SECOND: "second validations"}
Job = TypeVar("Job", bound=HasId)


@dataclass(frozen=True, kw_only=True)
class PreparedBuild:
    """A request that was read and found possible."""

    request: BuildRequest
    endpoint: EndpointFlags
    generator: str
    """As the user named it; once it is open, by its own name. So are the validators."""
    validator: str
    second: str | None
    """A second validator."""
    dimensions: Mapping[str, Dimension]
    calls: tuple[GenerationCall, ...]
    simulating: SimulateSettings
    validating: ValidateSettings
    ledger: Ledger

    def describe(self) -> dict[str, Any]:
        """What decides the items."""
        request = self.request
        names = ("simulate", "keep", "select", "min_score", "embed", "seed", "second_share")
        return self.decides(SECOND) | {name: getattr(request, name) for name in names}

    def decides(self, stage: str) -> dict[str, Any]:
        """What decides the records of a stage. Not how many calls there are: call 17 is the same among 20 and 200."""
        made = {
            "kind": "agency-build",
            "dimensions": hashes(self.dimensions),
            "generator": self.generator,
            "simulating": to_dict(self.simulating),
        }
        if stage == CALLS:
            return made
        checked = made | {"validator": self.validator, "validating": to_dict(self.validating)}
        return checked if stage == VALIDATIONS else checked | {"second_validator": self.second}

    def validations(self, messages: int) -> int:
        """How many there are at most, of so many messages: by both validators."""
        return messages + (0 if self.second is None else round(self.request.second_share * messages))

    def forecast(self) -> list[Forecast]:
        """Raises `InputError` where there is a budget and no price."""
        request = self.request
        validators = {self.validator: 1.0}
        if self.second is not None:
            validators[self.second] = request.second_share
        return forecast_build(
            self.calls,
            self.dimensions,
            generator=self.generator,
            validators=validators,
            embedder=request.embed if is_remote(request.embed) else None,
            most=(self.simulating.max_tokens, self.validating.max_tokens),
            ledger=self.endpoint.ledger(),
        )


class Built(NamedTuple):
    """Of one dimension."""

    pool: Pool
    kept: Kept
    chosen: Selection
    second: Agreement | None
    """None without a second validator, and where no message was scored by both."""


class BuildStages(NamedTuple):
    calls: Progress
    validations: Progress
    """By both validators. Its total is not known before the calls are done: the messages asked for are an upper limit.
    """


UNWATCHED = BuildStages(QUIET, QUIET)


def prepare_build(request: BuildRequest, endpoint: EndpointFlags | None = None) -> PreparedBuild:
    """Raises `InputError` for whatever can be known to be wrong before anything is asked."""
    endpoint = endpoint or EndpointFlags()
    for role, name in ((GENERATOR, request.generator), (VALIDATOR, request.validator)):
        if name is None:
            raise InputError(f"no {role}: name one with --{role} MODEL@URL")
        check_served(name)
    if request.second_validator is not None:
        check_served(request.second_validator)
        _check_another(request.second_validator, str(request.validator))
    if not 0.0 < request.second_share <= 1.0:
        raise InputError(f"--second-share {request.second_share:g}: give a share above 0, at most 1, such as 0.1")
    for flag, count in (("simulate", request.simulate), ("keep", request.keep), ("select", request.select)):
        if count is not None and count < 1:
            raise InputError(f"--{flag} {count}: give at least 1")
    if request.select > (request.keep or request.simulate):
        raise InputError(
            f"--select {request.select} of {request.keep or request.simulate} messages: simulate (and keep) more, or "
            "select fewer"
        )
    check_concurrency(endpoint.concurrency)
    dimensions = load_dimensions(request.dimension) if request.dimension else load_shipped()
    for dimension in dimensions.values():
        start = dimension.validate.start
        if not 0 <= (request.min_score or 0) <= start:
            raise InputError(f"--min-score {request.min_score}: messages of {dimension.id} have 0 to {start} points")
    schema, plain = not endpoint.free_form, endpoint.server_sampling
    validating = ValidateSettings(json_schema=schema)
    if VALIDATOR in plain:
        validating = replace(validating, temperature=None, top_p=None)
    simulating = SimulateSettings(seed=request.seed, json_schema=schema)
    if GENERATOR in plain:
        # Such models reason out of sight, within the same limit: that of messages alone would leave them no word.
        simulating = replace(simulating, temperature=None, top_p=None, max_tokens=validating.max_tokens)
    themes = shipped_themes()
    return PreparedBuild(
        request=request,
        endpoint=endpoint,
        generator=str(request.generator),
        validator=str(request.validator),
        second=request.second_validator,
        dimensions=dimensions,
        calls=tuple(
            plan_call(dimension, simulating, index, themes=themes, examples=own_examples(dimension))
            for dimension in dimensions.values()
            for index in range(-(-request.simulate // dimension.generate.per_call))
        ),
        simulating=simulating,
        validating=validating,
        ledger=endpoint.ledger(),
    )


def _check_another(second: str, validator: str) -> None:
    if second == validator:
        raise InputError(f"--second-validator {second} is the validator itself: name another model")


async def build(prepared: PreparedBuild, stages: BuildStages = UNWATCHED) -> dict[str, Built]:
    """All steps, from where the folder stands. Returns what was built, by dimension; `items.jsonl` is written.

    Raises `InputError` and `RunError` as their names say; finished calls and validations are in the folder then.
    """
    request = prepared.request
    async with Models(prepared.endpoint.remote(), ModelOptions(), prepared.ledger) as models:
        generator = await models.chat(prepared.generator, GENERATOR)
        validator = await models.chat(prepared.validator, VALIDATOR, key_variable=request.validator_key_variable)
        embedder = await _embedder(request, models)
        prepared = replace(prepared, generator=generator.name, validator=validator.name)
        checkers = [validator]
        if prepared.second is not None:
            second = await models.chat(prepared.second, VALIDATOR, key_variable=request.second_key_variable)
            _check_another(second.name, validator.name)
            prepared = replace(prepared, second=second.name)
            checkers.append(second)
        # All folders from the beginning to the end: nobody else writes the files beside them meanwhile.
        with ExitStack() as opened:
            calls = opened.enter_context(_stage_folder(prepared, CALLS))
            checks = [
                (opened.enter_context(_stage_folder(prepared, stage)), client)
                for stage, client in zip((VALIDATIONS, SECOND), checkers, strict=False)
            ]
            write_json_atomic(request.run / "config.json", prepared.describe())
            spent = {(GENERATOR, generator.name): _tokens(calls)}
            spent |= {(VALIDATOR, client.name): _tokens(folder) for folder, client in checks}
            recall(prepared.ledger, request.run / COSTS, spent)
            try:
                await _simulate(prepared, calls, generator, stages.calls)
                pools = _pools(prepared)
                found = [
                    await _validate(prepared, folder, client, _shown(prepared, pools, folder), stages.validations)
                    for folder, client in checks
                ]
                built = {
                    name: await _choose(prepared, dimension, pools[name], found, embedder)
                    for name, dimension in prepared.dimensions.items()
                }
            finally:
                write_json_atomic(request.run / COSTS, prepared.ledger.summary())
            write_items(request.run / ITEMS_FILE, [item for one in built.values() for item in one.chosen.items])
            metrics = {name: _metrics(one) for name, one in built.items()}
            write_json_atomic(request.run / METRICS, {"dimensions": metrics, "cost": prepared.ledger.cost})
    return built


def _stage_folder(prepared: PreparedBuild, stage: str) -> RunFolder:
    if stage != CALLS:  # which is open by now and keeps other processes out
        forget_empty(prepared.request.run / stage, f"agency-{stage}")
    return RunFolder.open(prepared.request.run / stage, prepared.decides(stage), environment(), kind=f"agency-{stage}")


def _records(stage: RunFolder) -> Iterator[dict[str, Any]]:
    return read_records(stage.path, f"agency-{stage.path.name}")


def _shown(prepared: PreparedBuild, pools: Mapping[str, Pool], stage: RunFolder) -> list[Item]:
    """What a stage's validator is shown: every message, or the second one's sample."""
    if stage.path.name == VALIDATIONS:
        return [item for pool in pools.values() for item in pool.items]
    request = prepared.request
    samples = [second_sample(pool.items, request.second_share, request.seed) for pool in pools.values() if pool.items]
    return [item for sample in samples for item in sample]


def _tokens(stage: RunFolder) -> list[Mapping[str, int]]:
    return [record["tokens"] for record in _records(stage)]


async def _simulate(prepared: PreparedBuild, folder: RunFolder, client: ChatClient, progress: Progress) -> None:
    examples: dict[str, tuple[Example, ...]] = {
        name: own_examples(dimension) for name, dimension in prepared.dimensions.items()
    }

    async def work(call: GenerationCall) -> dict[str, Any]:
        dimension = prepared.dimensions[call.dimension]
        return await simulate(call, dimension, client, prepared.simulating, examples=examples[call.dimension])

    await _stage(prepared, folder, prepared.calls, work, progress)


async def _validate(
    prepared: PreparedBuild, folder: RunFolder, client: ChatClient, items: Sequence[Item], progress: Progress
) -> dict[str, Validation]:
    """By the item's id; the folder may have more."""
    jobs = tuple(ValidationJob(item=item, validator=client.name) for item in items)

    async def work(job: ValidationJob) -> dict[str, Any]:
        dimension = prepared.dimensions[job.item.dimension]
        return validation_record(await validate(job, dimension, client, prepared.validating))

    await _stage(prepared, folder, jobs, work, progress)
    asked = {job.id for job in jobs}
    found = [read_validation(record) for record in _records(folder) if record["id"] in asked]
    return {validation.item: validation for validation in found}


async def _stage(
    prepared: PreparedBuild,
    folder: RunFolder,
    jobs: tuple[Job, ...],
    work: Callable[[Job], Awaitable[dict[str, Any]]],
    progress: Progress,
) -> None:
    """The jobs that the stage's folder lacks."""
    due = [job for job in jobs if folder.wants(job.id)]
    if len(due) < len(jobs):
        progress.advance(len(jobs) - len(due))
    with GroupSync([folder]) as records:
        await run_jobs(
            due,
            run_wide(work),
            on_result=lambda _, record: records.append(folder, record),
            concurrency=prepared.endpoint.concurrency,
            retries=ATTEMPTS - 1,
            base_delay=BASE_DELAY,
            progress=progress,
            what=_WHAT[folder.path.name],
        )


def _pools(prepared: PreparedBuild) -> dict[str, Pool]:
    """Of the calls that this request has; the folder may have more."""
    due = {call.id for call in prepared.calls}
    records = [r for r in read_records(prepared.request.run / CALLS, f"agency-{CALLS}") if r["id"] in due]
    return {name: gather([record for record in records if record["dimension"] == name]) for name in prepared.dimensions}


async def _choose(
    prepared: PreparedBuild,
    dimension: Dimension,
    pool: Pool,
    found: Sequence[Mapping[str, Validation]],
    embedder: Embedder,
) -> Built:
    request = prepared.request
    first, *others = [[one[item.id] for item in pool.items if item.id in one] for one in found]
    kept = keep(pool.items, first, dimension, wanted=request.keep, seed=request.seed, min_score=request.min_score)
    if len(kept.items) < request.select:
        lost = [f"{count} calls failed: {reason}" for reason, count in pool.failures.items()]
        lost += [f"{count} {why.replace('_', ' ')}" for why, count in {**pool.rejected, **kept.counts}.items() if count]
        raise InputError(
            f"{dimension.id}: --select {request.select}, and {len(kept.items)} messages are left ({', '.join(lost)}): "
            "repeat the command with more to --simulate, or with fewer to --select; what is finished is kept"
        )
    chosen = await select(
        kept.items,
        embedder,
        wanted=request.select,
        seed=request.seed,
        scores=kept.scores,
        avoid=[example.fields["prompt"] for example in own_examples(dimension)],
    )
    return Built(pool, kept, chosen, _agreement(prepared, dimension, first, *others))


def _agreement(
    prepared: PreparedBuild, dimension: Dimension, first: Sequence[Validation], second: Sequence[Validation] = ()
) -> Agreement | None:
    scored = {one.item for one in first if one.score is not None} & {o.item for o in second if o.score is not None}
    return agreement(first, second, dimension, min_score=prepared.request.min_score) if scored else None


async def _embedder(request: BuildRequest, models: Models) -> Embedder:
    if request.embed == "tfidf":
        return TfidfEmbedder(seed=request.seed)
    if is_remote(request.embed):
        client = await models.endpoint(request.embed, EMBEDDER)
        return EndpointEmbedder(client, client.model)
    return SentenceTransformersEmbedder(request.embed)


def _metrics(one: Built) -> dict[str, Any]:
    """Counts and coverage; items are named, not repeated."""
    pool: dict[str, Any] = to_dict(one.pool)
    kept: dict[str, Any] = to_dict(one.kept)
    chosen: dict[str, Any] = to_dict(one.chosen)
    return {
        "pool": {**pool, "items": len(one.pool.items)},
        "kept": {key: value for key, value in kept.items() if key not in ("items", "scores")},
        "selected": {**chosen, "items": [item.id for item in one.chosen.items]},
        "second_validator": to_dict(one.second),
    }
