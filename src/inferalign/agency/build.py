"""Items from a generator and a validator: simulate, validate, keep and select, resumably, into one file.

RUN/config.json   what decides the items
RUN/calls         a run folder of the generator's calls
RUN/validations   ... of the validator's verdicts
RUN/items.jsonl   the selected items of every dimension, as `agency run --items` reads them
RUN/metrics.json  what became of every message, and how the selection covers the rest
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from inferalign.agency.dimension import Dimension, load_shipped
from inferalign.agency.embed import Embedder, EndpointEmbedder, SentenceTransformersEmbedder, TfidfEmbedder
from inferalign.agency.item_source import load_dimensions
from inferalign.agency.items import write_items
from inferalign.agency.judge import hashes
from inferalign.agency.keep import Kept, keep
from inferalign.agency.models import Models, check_served, run_wide
from inferalign.agency.pool import Pool, gather
from inferalign.agency.requests import BuildRequest, EndpointFlags
from inferalign.agency.run import ATTEMPTS, BASE_DELAY
from inferalign.agency.run_folder import COSTS, METRICS
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
CALLS, VALIDATIONS, ITEMS_FILE = "calls", "validations", "items.jsonl"
Job = TypeVar("Job", bound=HasId)


@dataclass(frozen=True, kw_only=True)
class PreparedBuild:
    """A request that was read and found possible."""

    request: BuildRequest
    endpoint: EndpointFlags
    generator: str
    validator: str
    dimensions: Mapping[str, Dimension]
    calls: tuple[GenerationCall, ...]
    simulating: SimulateSettings
    validating: ValidateSettings
    ledger: Ledger

    def describe(self) -> dict[str, Any]:
        """What decides the items."""
        request = self.request
        wanted = {name: getattr(request, name) for name in ("simulate", "keep", "select", "min_score", "embed", "seed")}
        return {
            "kind": "agency-build",
            "dimensions": hashes(self.dimensions),
            "generator": self.generator,
            "validator": self.validator,
            "simulating": to_dict(self.simulating),
            "validating": to_dict(self.validating),
            **wanted,
        }


class Built(NamedTuple):
    """Of one dimension."""

    pool: Pool
    kept: Kept
    chosen: Selection


class BuildStages(NamedTuple):
    calls: Progress
    validations: Progress
    """Its total is not known before the calls are done: the number of messages asked for is an upper limit."""


UNWATCHED = BuildStages(QUIET, QUIET)


def prepare_build(request: BuildRequest, endpoint: EndpointFlags | None = None) -> PreparedBuild:
    """Raises `InputError` for whatever can be known to be wrong before anything is asked."""
    endpoint = endpoint or EndpointFlags()
    for role, name in ((GENERATOR, request.generator), (VALIDATOR, request.validator)):
        if name is None:
            raise InputError(f"no {role}: name one with --{role} MODEL@URL")
        check_served(name)
    for flag, count in (("simulate", request.simulate), ("select", request.select)):
        if count < 1:
            raise InputError(f"--{flag} {count}: give at least 1")
    if request.select > (request.keep or request.simulate):
        raise InputError(
            f"--select {request.select} of {request.keep or request.simulate} messages: simulate (and keep) more, or "
            "select fewer"
        )
    check_concurrency(endpoint.concurrency)
    dimensions = load_dimensions(request.dimension) if request.dimension else load_shipped()
    schema, plain = not endpoint.free_form, endpoint.server_sampling
    simulating = SimulateSettings(seed=request.seed, json_schema=schema)
    if GENERATOR in plain:
        simulating = SimulateSettings(seed=request.seed, json_schema=schema, temperature=None, top_p=None)
    validating = ValidateSettings(json_schema=schema)
    if VALIDATOR in plain:
        validating = ValidateSettings(json_schema=schema, temperature=None, top_p=None)
    themes = shipped_themes()
    return PreparedBuild(
        request=request,
        endpoint=endpoint,
        generator=str(request.generator),
        validator=str(request.validator),
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


async def build(prepared: PreparedBuild, stages: BuildStages = UNWATCHED) -> dict[str, Built]:
    """All steps, from where the folder stands. Returns what was built, by dimension; `items.jsonl` is written.

    Raises `InputError` and `RunError` as their names say; finished calls and validations are in the folder then.
    """
    request = prepared.request
    async with Models(prepared.endpoint.remote(), ModelOptions(), prepared.ledger) as models:
        generator = await models.chat(prepared.generator, GENERATOR)
        validator = await models.chat(prepared.validator, VALIDATOR)
        embedder = await _embedder(request, models)
        # Both folders from the beginning to the end: nobody else writes the files beside them meanwhile.
        with _stage_folder(prepared, CALLS) as calls, _stage_folder(prepared, VALIDATIONS) as validations:
            write_json_atomic(request.run / "config.json", prepared.describe())
            spent = {(GENERATOR, generator.name): _tokens(calls), (VALIDATOR, validator.name): _tokens(validations)}
            recall(prepared.ledger, request.run / COSTS, spent)
            try:
                await _simulate(prepared, calls, generator, stages.calls)
                pools = _pools(prepared)
                await _validate(prepared, validations, pools, validator, stages.validations)
                found = [read_validation(record) for record in _records(validations)]
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
    return RunFolder.open(prepared.request.run / stage, prepared.describe(), environment(), kind=f"agency-{stage}")


def _records(stage: RunFolder) -> Iterator[dict[str, Any]]:
    return read_records(stage.path, f"agency-{stage.path.name}")


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
    prepared: PreparedBuild, folder: RunFolder, pools: Mapping[str, Pool], client: ChatClient, progress: Progress
) -> None:
    jobs = tuple(ValidationJob(item=item, validator=client.name) for pool in pools.values() for item in pool.items)

    async def work(job: ValidationJob) -> dict[str, Any]:
        dimension = prepared.dimensions[job.item.dimension]
        return validation_record(await validate(job, dimension, client, prepared.validating))

    await _stage(prepared, folder, jobs, work, progress)


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
            what={CALLS: "calls of the generator"}.get(folder.path.name, folder.path.name),
        )


def _pools(prepared: PreparedBuild) -> dict[str, Pool]:
    records = list(read_records(prepared.request.run / CALLS, f"agency-{CALLS}"))
    return {name: gather([record for record in records if record["dimension"] == name]) for name in prepared.dimensions}


async def _choose(
    prepared: PreparedBuild, dimension: Dimension, pool: Pool, validations: list[Validation], embedder: Embedder
) -> Built:
    request, own = prepared.request, {item.id for item in pool.items}
    kept = keep(
        pool.items,
        [validation for validation in validations if validation.item in own],
        dimension,
        wanted=request.keep,
        seed=request.seed,
        min_score=request.min_score,
    )
    if len(kept.items) < request.select:
        fates = ", ".join(f"{count} {fate.replace('_', ' ')}" for fate, count in kept.counts.items() if count)
        raise InputError(
            f"{dimension.id}: --select {request.select}, and {len(kept.items)} messages are left ({fates}): name "
            "another --run with more to --simulate, or with fewer to --select"
        )
    chosen = await select(
        kept.items,
        embedder,
        wanted=request.select,
        seed=request.seed,
        scores=kept.scores,
        avoid=[example.fields["prompt"] for example in own_examples(dimension)],
    )
    return Built(pool, kept, chosen)


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
    }
