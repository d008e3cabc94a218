"""The benchmark as Inspect tasks, for people who live in Inspect: same items, same conditions, same judge, same scores.

    inspect eval inferalign/human_agency -T dimension=encourage_learning --model ... --model-role judge=...

Inspect makes the calls, repeats what fails, keeps the log and shows it; `agency compare` and `agency report` read the
log afterwards. Epochs are repeats. This module is imported by Inspect, through the entry point, and by nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser, GenerateConfig, ModelOutput
from inspect_ai.solver import Generate, Solver, TaskState, solver

from inferalign.agency.conditions import parse_conditions
from inferalign.agency.dimension import Dimension, load_shipped
from inferalign.agency.inspect_logs import KIND
from inferalign.agency.inspect_scorer import REPLY, by_dimension, issue_letters, item_of, judging_models, loaded
from inferalign.agency.inspect_transport import finish_of, tokens_of
from inferalign.agency.items import load_items
from inferalign.agency.records import Item
from inferalign.agency.stored import to_record
from inferalign.core.config import to_dict
from inferalign.core.environment import environment
from inferalign.core.errors import InputError

ALL = "all"


@task  # type: ignore[untyped-decorator]  # inspect_ai is untyped here
def human_agency(
    dimension: str | list[str] = ALL,
    items: str | None = None,
    condition: str = "default",
    seed: int = 0,
    shuffle: bool = True,
    judge_temperature: float | None = 0.0,
    allow_self_judging: bool = False,
) -> Task:
    """Does an assistant leave the person who uses it in control? (arXiv 2509.08494)

    Args:
        dimension: one of the six, several, a file (`my.yaml`), or `all`.
        items: a file of items for one dimension; None takes the shipped ones.
        condition: `default`, `none`, `150-words` or a FILE.txt, each perhaps with `+followups`.
        seed: the orders of the letters are derived from it.
        shuffle: whether a judge sees the issues in a drawn order; `false` is the published order.
        judge_temperature: `null` for a judge that takes none. What `--model-role` sets wins.
        allow_self_judging: lets a model judge its own replies.

    Raises `InputError` and `UnknownName` for what cannot be used.
    """
    names = list(load_shipped()) if dimension == ALL else [dimension] if isinstance(dimension, str) else dimension
    dimensions = loaded(names)
    if items is not None and len(dimensions) > 1:
        raise InputError(f"-T items={items} is a file of one dimension and {len(dimensions)} are named: name one")
    (asked,) = parse_conditions([condition], dimensions)
    settings: dict[str, Any] = {"seed": seed, "shuffle": shuffle, "judge_temperature": judge_temperature}
    return Task(
        dataset=MemoryDataset(
            _in_turn([[_sample(item) for item in load_items(one, items)] for one in dimensions.values()]),
            name="human_agency" if len(dimensions) > 1 else next(iter(dimensions)),
        ),
        solver=conversation(names, condition, allow_self_judging),
        scorer=issue_letters(names, condition, **settings, allow_self_judging=allow_self_judging),
        metrics=[by_dimension(list(dimensions))],
        config=_config(list(dimensions.values())),
        version=max(one.version for one in dimensions.values()),
        metadata={
            "kind": KIND,
            "environment": environment(),
            "dimensions": {one.id: _described(one) for one in dimensions.values()},
            "turns": {one.id: 1 + len(asked.turns(one)) for one in dimensions.values()},
            "condition": {"name": asked.name, **asked.describe()},
            **settings,
        },
    )


@solver  # type: ignore[untyped-decorator]
def conversation(dimensions: Sequence[str], condition: str, allow_self_judging: bool) -> Solver:
    """The subject's turns: to the item, and to the follow-up turns of the condition, whatever it said before.

    The conversation ends early where the subject says nothing, as in `agency run`.
    """
    known = loaded(dimensions)
    (asked,) = parse_conditions([condition], known)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        judging_models(str(state.model), allow_self_judging)  # before anything is spent
        dimension = known[item_of(state).dimension]
        prompt = asked.system_prompt(dimension)
        if prompt is not None:
            state.messages.insert(0, ChatMessageSystem(content=prompt))
        outputs: list[ModelOutput] = []
        for place, turn in enumerate((None, *asked.turns(dimension))):
            if place:
                state.messages.append(ChatMessageUser(content=turn))
            state = await generate(state)
            outputs.append(state.output)
            state.store.set(REPLY, {"system_prompt": prompt, **_facts(outputs)})
            if not state.output.completion.strip():
                break  # most servers refuse a history with an empty turn
        return state

    return solve


def _facts(outputs: Sequence[ModelOutput]) -> dict[str, Any]:
    """What a record says of a reply beside its words; no count of tokens when a part of it is not known."""
    told = [tokens_of(output.usage) for output in outputs]
    tokens = {"requests": len(outputs)}
    if None not in told:
        each = [to_dict(one) for one in told]
        tokens |= {name: sum(one[name] for one in each) for name in each[0]}
    return {
        "finish": finish_of(outputs[-1]),
        "tokens": tokens,
        "seconds": sum(output.time or 0.0 for output in outputs),
        "facts": {"model": outputs[-1].model},
    }


def _sample(item: Item) -> Sample:
    record = to_record(item)
    prompt = record.pop("prompt")
    metadata = {
        "dimension": item.dimension,
        "cluster": f"{item.dimension}/{item.cluster or item.id}",
        "form": item.form,
        "item": record,
    }
    return Sample(id=item.id, input=prompt, metadata=metadata)


def _in_turn(columns: Sequence[Sequence[Sample]]) -> list[Sample]:
    """One of each dimension, then the next of each: `--limit 60` takes ten of each of six."""
    return [sample for row in zip_longest(*columns) for sample in row if sample is not None]


def _described(dimension: Dimension) -> dict[str, Any]:
    """What a report must know of a dimension whose file it may not have."""
    return {"version": dimension.version, "sha256": dimension.sha256, "issues": to_dict(dimension.rubric.issues)}


def _config(dimensions: Sequence[Dimension]) -> GenerateConfig:
    """How the dimensions' files want the subject asked; flags such as `--temperature` change it.

    Raises `InputError` when they differ: Inspect has one setting a task.
    """
    wanted = {(d.subject.max_tokens, d.subject.temperature, d.subject.top_p) for d in dimensions}
    if len(wanted) > 1:
        raise InputError("these dimensions ask their subject with different settings: run one task for each")
    max_tokens, temperature, top_p = wanted.pop()
    return GenerateConfig(max_tokens=max_tokens, temperature=temperature, top_p=top_p)
