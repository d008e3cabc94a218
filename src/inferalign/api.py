"""The Python API, and what `inferalign generate` calls: prompts in, results out, optionally through a run folder.

    results = inferalign.generate("sandbox", "rain", ["How do I boil an egg?"], seed=1)
    print(results[0].response.text)

It wires model, guide and procedure together and knows none of them from inside.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from inferalign.core.config import to_dict
from inferalign.core.environment import environment
from inferalign.core.errors import InputError, RunError
from inferalign.core.files import write_json_atomic
from inferalign.core.jobs import QUIET, Progress, check_concurrency, run_jobs
from inferalign.core.prompts import PromptLike, as_prompts, prompts_sha256
from inferalign.core.records import RunFolder, done_ids, read_records
from inferalign.core.results import from_record, metrics, to_record
from inferalign.core.types import Determinism, Piece, Prompt, Result
from inferalign.engines.base import Engine
from inferalign.engines.table import LoadedModel, ModelOptions, is_sandbox, load
from inferalign.procedures.base import Procedure, Sampling, Streaming
from inferalign.procedures.rain_settings import SETTINGS, RainSettings
from inferalign.procedures.table import PROCEDURES, build, parse
from inferalign.scorers.table import build_scorer

KIND = "generate"
METRICS = "metrics.json"
TREES = "trees"
P = ParamSpec("P")


async def agenerate(
    model: str | LoadedModel,
    procedure: str,
    prompts: Iterable[PromptLike],
    *,
    seed: int = 0,
    scorer: str = "self",
    run: Path | str | None = None,
    sampling: Sampling | None = None,
    rain: RainSettings | None = None,
    encoder: str | None = None,
    options: ModelOptions | None = None,
    concurrency: int = 16,
    shard: str | None = None,
    allow_oracle_guide: bool = False,
    trees: bool = False,
    progress: Progress = QUIET,
) -> list[Result]:
    """Answer every prompt under a procedure; the results come in the order of the prompts.

    Args:
        model: `"sandbox"`, a model directory, a hub id, or a model that `engines.table.load` returned.
        procedure: `sample`, `best-of-n:4`, `worst-of-n:4`, `random-of-n:4`, `rain` or `rain:paper`.
        prompts: texts (their ids are their places, "0", "1", ...), lists of messages, or `Prompt`s with ids.
        scorer: the guide: `self` (the model judges itself), the path of a template, `reward:DIR` (a reward model), or
            another of `scorers.table`.
        run: a folder to record every result in. Results that it holds already are read, not made again.
        shard: `"1/2"` does half of the prompts beside another process; it needs `run`.
        trees: write each search's tree under `<run>/trees`, for `procedures.rain_trace.read_tree`; it needs `run`.

    Raises `InputError` and `ModelError` as their names say, and `RunError` when a prompt failed. With `run` the others
    are kept there, and a repeated call tries that one again; without it they are lost.
    """
    asked = as_prompts(prompts)
    check_concurrency(concurrency)
    if run is None and (shard is not None or trees):
        given = f"shard {shard!r} was given without a run folder to share" if shard else "trees need a run folder"
        raise InputError(f"{given}: give `run` (--run DIR) too")
    loaded, chosen = _make(
        model,
        procedure,
        seed=seed,
        scorer=scorer,
        sampling=sampling,
        rain=rain,
        encoder=encoder,
        options=options,
        allow_oracle_guide=allow_oracle_guide,
        trees=Path(run) / TREES if run is not None and trees else None,
    )
    if run is not None:
        return await _through_folder(Path(run), asked, chosen, loaded, seed, shard, concurrency, progress)
    results: dict[str, Result] = {}
    await run_jobs(
        asked,
        chosen,
        on_result=lambda prompt, result: results.update({prompt.id: result}),
        concurrency=concurrency,
        progress=progress,
        kept=False,
    )
    return [results[prompt.id] for prompt in asked]


def _blocking(work: Callable[P, Coroutine[Any, Any, list[Result]]], name: str) -> Callable[P, list[Result]]:
    """The same call for programs that are not async."""

    @wraps(work)
    def call(*args: P.args, **kwargs: P.kwargs) -> list[Result]:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(work(*args, **kwargs))
        raise InputError(
            f"inferalign.{name} was called inside a running event loop (a notebook, or an async function): "
            f"write `await inferalign.{work.__name__}(...)` there"
        )

    call.__name__ = call.__qualname__ = name
    return call


generate = _blocking(agenerate, "generate")


def stream(
    model: str | LoadedModel,
    procedure: str,
    prompt: PromptLike,
    *,
    seed: int = 0,
    scorer: str = "self",
    sampling: Sampling | None = None,
    rain: RainSettings | None = None,
    encoder: str | None = None,
    options: ModelOptions | None = None,
    allow_oracle_guide: bool = False,
) -> AsyncGenerator[Piece, None]:
    """The answer to one prompt, in pieces as they come; it is the answer that `generate` gives to `[prompt]`.

        async for piece in inferalign.stream("sandbox", "rain", "How do I boil an egg?"):
            print(piece.text, end="")

    `rain` gives what it has committed, which is never taken back; the other procedures give their answer in one
    piece. The last piece has the result. Nothing is done but while a piece is awaited, so that `break` (or `aclose`)
    stops the work at once. The arguments are those of `agenerate`. What they have wrong is raised here, before the
    first piece; what fails later is raised where a piece is awaited, and is not tried again.
    """
    (asked,) = as_prompts([prompt])
    _, chosen = _make(
        model,
        procedure,
        seed=seed,
        scorer=scorer,
        sampling=sampling,
        rain=rain,
        encoder=encoder,
        options=options,
        allow_oracle_guide=allow_oracle_guide,
        trees=None,
    )
    return chosen.stream(asked) if isinstance(chosen, Streaming) else _in_one_piece(chosen, asked)


async def _in_one_piece(procedure: Procedure, prompt: Prompt) -> AsyncGenerator[Piece, None]:
    result = await procedure(prompt)
    yield Piece(text=result.response.text, token_ids=result.response.token_ids, result=result)


def _make(
    model: str | LoadedModel,
    procedure: str,
    *,
    seed: int,
    scorer: str,
    sampling: Sampling | None,
    rain: RainSettings | None,
    encoder: str | None,
    options: ModelOptions | None,
    allow_oracle_guide: bool,
    trees: Path | None,
) -> tuple[LoadedModel, Procedure]:
    """The model, loaded unless it is, and the procedure on it with its guide."""
    name, setting = parse(procedure)  # a typing error is told before a model is loaded
    if name == "rain":
        rain = rain or SETTINGS[str(setting)]
    elif rain is not None or encoder is not None or trees is not None:
        raise InputError(
            f"procedure {procedure!r} does not search: leave out `rain`, `encoder` (--encoder) and `trees` (--trees)"
        )
    loaded = load(model, options or ModelOptions()) if isinstance(model, str) else model
    guide = None
    if PROCEDURES[name].guided:
        guide = build_scorer(
            scorer,
            engine=loaded.engine,
            chat=loaded.chat,
            sandbox=is_sandbox(loaded.engine.name),
            form=rain.form if rain else "margin",
            options=options,
        )
    return loaded, build(
        procedure,
        engine=loaded.engine,
        chat=loaded.chat,
        scorer=guide,
        seed=seed,
        sampling=sampling or Sampling(),
        rain=rain,
        encoder=encoder,
        trees=trees,
        allow_oracle_guide=allow_oracle_guide,
    )


async def _through_folder(
    run: Path,
    asked: Sequence[Prompt],
    procedure: Procedure,
    loaded: LoadedModel,
    seed: int,
    shard: str | None,
    concurrency: int,
    progress: Progress,
) -> list[Result]:
    """Make what the folder lacks, and read the rest; afterwards `metrics.json` covers all that any shard has."""
    engine = loaded.engine
    decides = {
        "model": engine.describe(),
        "chat": loaded.chat.describe(),
        "procedure": procedure.describe(),
        "seed": seed,
    }
    env = environment() | {"model": engine.name, "prompts_sha256": prompts_sha256(asked)}
    with RunFolder.open(run, to_dict(decides), env, shard, KIND) as folder:
        mine = [prompt for prompt in asked if folder.shard.takes(prompt.id)]
        if folder.done:
            _check_same(run, {prompt.id: prompt for prompt in mine})
        todo = [prompt for prompt in mine if folder.wants(prompt.id)]
        progress.advance(len(mine) - len(todo))
        await run_jobs(
            todo,
            procedure,
            on_result=lambda _, result: folder.append(to_record(result, _promised(engine, result))),
            concurrency=concurrency,
            progress=progress,
        )
    done = write_metrics(run)
    return [done[prompt.id] for prompt in mine]


def _promised(engine: Engine, result: Result) -> Determinism:
    """Whether the answer can be made again: not one that a clock has cut short."""
    return Determinism.NONE if result.trace.get("budget", {}).get("ran_out") == "seconds" else engine.determinism


def write_metrics(run: Path) -> dict[str, Result]:
    """Write `metrics.json` over the records of every shard, and return the results by id."""
    while True:
        done = {record["id"]: from_record(record) for record in read_records(run, KIND)}
        write_json_atomic(run / METRICS, metrics(done.values()))
        # Another shard may have ended between the read and the write, and been written over: look again.
        if finished(run) == len(done):
            return done


def _check_same(run: Path, asked: Mapping[str, Prompt]) -> None:
    """Raises `RunError` when a finished id of the run now stands for another conversation."""
    for record in read_records(run, KIND):
        prompt = asked.get(record["id"])
        if prompt is not None and from_record(record).prompt.messages != prompt.messages:
            raise RunError(
                f"{run} has an answer for id {prompt.id!r}, but to another prompt: the prompts were changed. "
                "Give the changed prompt a new id, or name another --run."
            )


def finished(run: Path) -> int:
    """How many prompts a run folder has answers for; 0 when there is no such folder yet."""
    return len(done_ids(run, KIND)) if any((run / "records").glob("*.jsonl")) else 0
