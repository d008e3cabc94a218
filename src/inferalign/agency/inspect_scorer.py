"""The scorer of the Inspect tasks: the very judge that `agency run` asks, over Inspect's model of the role `judge`.

A verdict that was not reached is Inspect's unscored value, which no metric counts and the log keeps, with the judge's
words. A call that failed is an error of its sample, never a score. Several models in the role make a panel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inspect_ai.model import Model, model_roles
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, metric, scorer
from inspect_ai.solver import TaskState
from inspect_ai.util import collect

from inferalign.agency.conditions import parse_conditions
from inferalign.agency.dimension import Dimension, load_dimension
from inferalign.agency.inspect_logs import ended
from inferalign.agency.inspect_transport import InspectChat, own_messages
from inferalign.agency.judge import judged
from inferalign.agency.judge_chat import ChatJudge, ChatJudgeSettings
from inferalign.agency.panel import combine
from inferalign.agency.records import Item, Reply, Verdict
from inferalign.agency.stored import to_item, to_record
from inferalign.core.errors import InputError
from inferalign.core.types import RoleUsage

if TYPE_CHECKING:
    from inferalign.agency.clusters import Clustered

JUDGE = "judge"
"""The role that must be named: `--model-role judge=PROVIDER/MODEL`."""
REPLY = "reply"
"""In the sample's store and the score's metadata: what the solver knows of a reply beside its words."""
_REASONS = {"judge": "grader_failed", "response": "no_response"}


@metric  # type: ignore[untyped-decorator]  # inspect_ai is untyped here
def by_dimension(dimensions: Sequence[str] | None = None) -> Metric:
    """Mean and clustered standard error of each dimension, and of their unweighted mean, as the report has them.

    The errors are those of `agency.clusters`. NaN stands where there is none: for a dimension without a score, and then
    for the mean over dimensions; for the error of a single cluster. None means the dimensions that have a score.
    """

    def compute(scores: list[SampleScore]) -> dict[str, float]:
        # Inspect loads this module whenever it starts, for whatever task; numpy and scipy are for who runs this one.
        from inferalign.agency.analysis import OVERALL
        from inferalign.agency.clusters import combined

        groups: dict[str, list[SampleScore]] = {name: [] for name in dimensions or ()}
        for one in scores:
            groups.setdefault(one.sample_metadata["dimension"], []).append(one)
        means = {name: _mean(group) if group else None for name, group in groups.items()}
        known = [mean for mean in means.values() if mean is not None]
        whole = bool(known) and len(known) == len(means)
        overall = combined(known, [1 / len(known)] * len(known)) if whole else None
        return {key: value for name, mean in (*means.items(), (OVERALL, overall)) for key, value in _told(name, mean)}

    return compute


def _mean(group: Sequence[SampleScore]) -> Clustered:
    from inferalign.agency.clusters import cluster_codes, clustered_mean

    clusters = cluster_codes([one.sample_metadata["cluster"] for one in group])
    return clustered_mean([one.score.as_float() for one in group], clusters)


def _told(name: str, mean: Clustered | None) -> list[tuple[str, float]]:
    nothing = float("nan")
    if mean is None:
        return [(name, nothing), (f"{name}_stderr", nothing)]
    return [(name, mean.value), (f"{name}_stderr", nothing if mean.error is None else mean.error)]


@scorer(metrics=[by_dimension()])  # type: ignore[untyped-decorator]
def issue_letters(
    dimensions: Sequence[str],
    condition: str = "default",
    seed: int = 0,
    shuffle: bool = True,
    judge_temperature: float | None = 0.0,
    allow_self_judging: bool = False,
) -> Scorer:
    """A score from 0 to 10, its letters as the answer; the verdicts are in the metadata, as `agency run` records them.

    The arguments are those of `tasks.human_agency`.
    """
    known = loaded(dimensions)
    (asked,) = parse_conditions([condition], known)
    settings = ChatJudgeSettings(seed=seed, shuffle=shuffle, temperature=judge_temperature)

    async def score(state: TaskState, target: Target) -> Score:
        item = item_of(state)
        dimension = known[item.dimension]
        facts = state.store.get(REPLY, {})
        turns = 1 + len(asked.turns(dimension))
        if not ended(state.messages, turns):
            told = f"the conversation did not come to its {turns} answers: a limit was reached"
            return Score.unscored(reason="no_response", explanation=told, metadata={REPLY: facts, "verdicts": []})
        reply = _reply(state, item, asked.name, facts)
        judges = [
            ChatJudge(InspectChat(model, role=JUDGE, max_retries=None), known, settings)
            for model in judging_models(str(state.model), allow_self_judging)
        ]
        verdicts = await collect(*(judged(one, item, reply, repeat=0, usage=RoleUsage()) for one in judges))
        return _score(verdicts, dimension, facts)

    return score


def loaded(dimensions: Sequence[str]) -> dict[str, Dimension]:
    """Dimensions by id, of the names or files given. Raises `InputError` for two of one id."""
    found: dict[str, Dimension] = {}
    for name in dimensions:
        dimension = load_dimension(name)
        if dimension.id in found:
            raise InputError(f"the dimension {dimension.id!r} is named twice: name each once")
        found[dimension.id] = dimension
    return found


def judging_models(subject: str, allow_self_judging: bool) -> list[Model]:
    """The models of the role `judge`. Raises `InputError` when there is none, and when the subject is among them."""
    named = model_roles().get(JUDGE)
    if named is None:
        raise InputError(
            "no judge is named, and a subject does not judge itself: add --model-role judge=PROVIDER/MODEL"
        )
    models = named if isinstance(named, list) else [named]
    if not allow_self_judging and subject in {str(model) for model in models}:
        raise InputError(
            f"{subject} would judge its own replies: name another model with --model-role judge=PROVIDER/MODEL, or "
            "add -T allow_self_judging=true"
        )
    if len({str(model) for model in models}) < len(models):
        raise InputError("a judge is named twice in the role: its verdicts would be counted as two opinions")
    return models


def item_of(state: TaskState) -> Item:
    """The item behind a sample."""
    return to_item({**state.metadata["item"], "prompt": state.input_text})


def _reply(state: TaskState, item: Item, condition: str, facts: Mapping[str, Any]) -> Reply:
    return Reply(
        item=item.id,
        subject=str(state.model),
        condition=condition,
        repeat=state.epoch - 1,
        conversation=tuple(message for message in own_messages(state.messages) if message.role != "system"),
        **{"system_prompt": None, "finish": "other", **facts},
    )


def _score(verdicts: Sequence[Verdict], dimension: Dimension, facts: Mapping[str, Any]) -> Score:
    panel = combine(verdicts, dimension.rubric)
    metadata = {REPLY: dict(facts), "verdicts": [to_record(verdict) for verdict in verdicts]}
    if panel.score is None:
        blame = "response" if all(one.blame == "response" for one in verdicts) else "judge"
        why = "; ".join(one.reason for one in verdicts if one.reason)
        return Score.unscored(reason=_REASONS[blame], explanation=why, metadata=metadata)
    said = "\n\n".join(one.assessment for one in verdicts if one.assessment)
    return Score(
        value=panel.score, answer=", ".join(panel.letters or ()) or "none", explanation=said, metadata=metadata
    )
