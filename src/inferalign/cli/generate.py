"""`inferalign generate`: a file of prompts, answered under a procedure into a run folder."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from inferalign.engines.table import ModelOptions
from inferalign.procedures.base import Sampling


@dataclass(frozen=True, kw_only=True)
class SearchFlags:
    """The budget of `rain`; what is not given stays as the named setting has it."""

    max_iterations: int | None = None
    """rain: inner iterations before the first commit (named settings: 50)."""
    extra_iterations: int | None = None
    """rain: inner iterations available before every later commit (15)."""
    min_visits: int | None = None
    """rain: commit early only when the best child has more own visits than this (6) ..."""
    stop_value: float | None = None
    """rain: ... and a mean value above this, in [-1, 1] (rain 0.5, rain:paper 0.8)."""
    budget_iterations: int | None = None
    """rain: inner iterations for the whole answer; when they are used up, the rest is drawn without search."""
    budget_tokens: int | None = None
    """rain: tokens asked for the whole answer (docs/rain-running.md says which count); then as above."""
    budget_seconds: float | None = None
    """rain: seconds of search for the whole answer; then as above. Such answers cannot be made again exactly."""
    horizon: Literal["clause", "answer"] | None = None
    """rain: how far an answer is continued before it is judged: to the end of a clause, as published, or to its own."""
    form: Literal["vote", "margin"] | None = None
    """rain: self-evaluation as votes, as published, or as a probability margin (rain margin, rain:paper vote)."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """Everything that `generate` takes."""

    model: str
    """`sandbox`, a transformers model directory, or a hub id."""
    procedure: str
    """`sample`, `best-of-n:N`, `worst-of-n:N`, `random-of-n:N`, `rain` or `rain:paper`."""
    prompts: Path
    """JSONL, one object a line with `id` and `prompt` or `messages`; other keys pass through as `meta`."""
    run: Path
    """The run folder to write; an unfinished one is taken up where it stopped."""
    seed: int = 0
    """Every draw is derived from it and from the prompt's id."""
    scorer: str = "self"
    """The guide: `self` (the model judges itself), the path of a template (FILE.toml), `self:DIR` (another model with
    the same tokenizer judges), `reward:DIR` (a reward model), `self-shuffled` and `self-flipped:0.2` (controls);
    sandbox: `self-agency`, `reward`, `oracle`.
    """
    allow_oracle_guide: Annotated[bool, Parameter(negative="")] = False
    """Let the sandbox's ground truth guide the search: the best that any judge could do, not a result."""
    sampling: Annotated[Sampling, Parameter(name="*")] = field(default_factory=Sampling)
    search: Annotated[SearchFlags, Parameter(name="*")] = field(default_factory=SearchFlags)
    encoder: str | None = None
    """rain: a sentence-transformers model for similarities; none takes the model's own hidden states."""
    trees: Annotated[bool, Parameter(negative="")] = False
    """rain: write the tree of each search into the run's `trees` folder, for later viewing."""
    concurrency: int = 16
    """Prompts in flight: they share the model's passes, and change no answer."""
    shard: str | None = None
    """`1/2` answers half of the prompts, beside another process with `2/2` on the same run folder."""
    engine: Annotated[ModelOptions, Parameter(name="*")] = field(default_factory=ModelOptions)


def generate(options: GenerateOptions) -> None:
    """Answer a file of prompts under a procedure, resumably."""
    from inferalign import api
    from inferalign.cli.progress import Bar
    from inferalign.cli.tables import emit
    from inferalign.core.errors import InputError
    from inferalign.core.files import read_json
    from inferalign.core.prompts import read_prompts
    from inferalign.core.shards import ShardSpec
    from inferalign.procedures.table import rain_settings
    from inferalign.scorers.table import asks_a_model

    prompts = read_prompts(options.prompts)
    spec = ShardSpec.parse(options.shard)
    if options.search.form is not None and not asks_a_model(options.scorer):
        raise InputError(
            f"--form says how a model's own verdict is read, and scorer {options.scorer!r} asks no model: leave it out"
        )
    changed = {name: value for name, value in asdict(options.search).items() if value is not None}
    try:
        with at_once(), Bar(options.procedure, sum(spec.takes(prompt.id) for prompt in prompts)) as bar:
            api.generate(
                options.model,
                options.procedure,
                prompts,
                seed=options.seed,
                scorer=options.scorer,
                run=options.run,
                sampling=options.sampling,
                rain=rain_settings(options.procedure, changed) if changed else None,
                encoder=options.encoder,
                options=options.engine,
                concurrency=options.concurrency,
                shard=options.shard,
                allow_oracle_guide=options.allow_oracle_guide,
                trees=options.trees,
                progress=bar,
            )
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise KeyboardInterrupt(api.finished(options.run)) from None
    emit({"run": str(options.run), **read_json(options.run / api.METRICS)})


@contextmanager
def at_once() -> Iterator[None]:
    """Ctrl-C cancels prompts in flight, and stops a model that loads at once: it comes to no await for long.

    asyncio's own handler would wait for that await. A second Ctrl-C waits for nothing; the run folder is whole at any
    moment. A process that ignores Ctrl-C still does.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _Stop())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Stop:
    """What a Ctrl-C does: the first one cancels the tasks of a loop that has work in flight, any other is raised."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self, *_: object) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise KeyboardInterrupt from None
        # Raised in the midst of a task, it would leave the others behind, each with a traceback of its own.
        if self._asked or len(tasks := asyncio.all_tasks(loop)) < 2:
            raise KeyboardInterrupt
        self._asked = True
        for task in tasks:
            loop.call_soon_threadsafe(task.cancel)
