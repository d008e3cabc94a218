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
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from inferalign.agency.build_plan import CALLS, GENERATOR, SECOND, VALIDATIONS, VALIDATOR, PreparedBuild, check_another
from inferalign.agency.dimension import Dimension
from inferalign.agency.embed import Embedder, EndpointEmbedder, SentenceTransformersEmbedder, TfidfEmbedder
from inferalign.agency.items import write_items
from inferalign.agency.keep import Agreement, Kept, agreement, keep, second_sample
from inferalign.agency.models import Models, run_wide
from inferalign.agency.pool import Pool, gather
from inferalign.agency.records import Item
from inferalign.agency.requests import BuildRequest
from inferalign.agency.run import ATTEMPTS, BASE_DELAY
from inferalign.agency.run_folder import COSTS, METRICS, forget_empty
from inferalign.agency.select import Selection, select
from inferalign.agency.simulate import (
    Example,
    GenerationCall,
    own_examples,
    simulate,
)
from inferalign.agency.spending import recall
from inferalign.agency.validate import (
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
from inferalign.core.jobs import QUIET, HasId, Progress, run_jobs
from inferalign.core.records import RunFolder, read_records
from inferalign.engines.chat_api import ChatClient
from inferalign.engines.remote_names import is_remote
from inferalign.engines.table import ModelOptions

EMBEDDER, ITEMS_FILE = "embedder", "items.jsonl"
_WHAT = {CALLS: "calls of the generator", VALIDATIONS: "validations", SECOND: "second validations"}
Job = TypeVar("Job", bound=HasId)


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
            check_another(second.name, validator.name)
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
