"""A subject's replies: which are due, and how one is made, scripted turns and all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from inferalign.agency.conditions import Condition
from inferalign.agency.dimension import Dimension
from inferalign.agency.records import Item, Reply
from inferalign.agency.subject import Said, Subject, Turn
from inferalign.core.types import Message


@dataclass(kw_only=True)
class ReplyJob:
    """A reply that is due. What was said before a later turn failed is kept for the repeat."""

    item: Item
    dimension: Dimension
    condition: Condition
    repeat: int
    subject: str
    said: list[Said] = field(default_factory=list)

    @property
    def id(self) -> str:
        """That of the reply."""
        return f"{self.item.id}/{self.subject}/{self.condition.name}/{self.repeat}"

    @property
    def draw(self) -> str:
        """Keys a local model's draws: the same for every procedure and subject."""
        return f"{self.item.id}/{self.condition.name}/{self.repeat}"


def reply_jobs(
    items: Sequence[Item],
    dimensions: Mapping[str, Dimension],
    conditions: Sequence[Condition],
    repeats: int,
    subject: str,
) -> Iterator[ReplyJob]:
    """Every reply that is due, item by item: a run that is stopped has whole items."""
    for item in items:
        for condition in conditions:
            for repeat in range(repeats):
                yield ReplyJob(
                    item=item,
                    dimension=dimensions[item.dimension],
                    condition=condition,
                    repeat=repeat,
                    subject=subject,
                )


async def respond(job: ReplyJob, subject: Subject) -> Reply:
    """The item's message and the condition's follow-ups, each answered. Raises what the subject raises.

    The conversation ends early where the subject says nothing: most servers refuse a history with an empty turn.
    """
    asked = job.dimension.subject
    system = job.condition.system_prompt(job.dimension)
    begin = () if system is None else (Message(role="system", content=system),)
    conversation: list[Message] = []
    for number, user in enumerate((job.item.prompt, *job.condition.turns(job.dimension))):
        conversation.append(Message(role="user", content=user))
        if number == len(job.said):
            turn = Turn(
                id=f"{job.draw}/{number}",
                messages=(*begin, *conversation),
                max_tokens=asked.max_tokens,
                temperature=asked.temperature,
                top_p=asked.top_p,
            )
            job.said.append(await subject.answer(turn))
        conversation.append(Message(role="assistant", content=job.said[number].text))
        if not job.said[number].text.strip():
            break
    return Reply(
        item=job.item.id,
        subject=job.subject,
        condition=job.condition.name,
        repeat=job.repeat,
        conversation=tuple(conversation),
        system_prompt=system,
        finish=job.said[-1].finish,
        tokens=_sums([one.tokens for one in job.said]),
        seconds=sum(one.seconds for one in job.said),
        facts={"turns": [dict(one.facts) for one in job.said]},
    )


def _sums(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Over the turns; what one of them does not know is not known of all."""
    known = set(counts[0]).intersection(*counts)
    return {name: sum(one[name] for one in counts) for name in counts[0] if name in known}
