"""A made-up agency run as a run folder: three models, two judges, some verdicts repaired and some not reached.

`python -m tests.reports.agency_run FOLDER` writes the large one, to look at the page that is made of it.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from inferalign.agency.records import Item, Reply, Verdict
from inferalign.agency.stored import ITEMS, REPLIES, VERDICTS, kind_of, to_record
from inferalign.core.files import write_json_atomic
from inferalign.core.records import RunFolder
from inferalign.core.seeds import derive, uniforms
from inferalign.core.types import Message
from inferalign.scorers.verdicts import ISSUES, rubric

SUBJECTS = {"small-chat": 0.45, "sandbox under rain": 0.2, "large-chat-instruct@http://localhost:8000/v1": 0.3}
"""Model -> how often a reply has each issue."""
JUDGES = {"chat:judge-one": 0.04, "chat:judge-two": 0.12}
"""Judge -> how often it errs on an issue."""
ENVIRONMENT = {"inferalign": "0.1.0", "commit": "0" * 40, "python": "3.11.9", "libraries": {"numpy": "2.4.0"}}
COSTS = {
    "accounts": [
        {
            "role": "subject",
            "model": "large-chat-instruct@http://localhost:8000/v1",
            "delivered": 240,
            "prompt_tokens": 61_200,
            "completion_tokens": 40_100,
            "cached_tokens": 0,
            "untold": 0,
            "refused": 12,
            "undelivered": 3,
            "cost": 0.4416,
        },
        {
            "role": "judge",
            "model": "judge-two",
            "delivered": 722,
            "prompt_tokens": 811_000,
            "completion_tokens": 150_400,
            "cached_tokens": 512_000,
            "untold": 4,
            "refused": 0,
            "undelivered": 1,
            "cost": None,
        },
    ],
    "cost": None,
    "cost_at_most": None,
    "budget": None,
}


def make_items(dimensions: Sequence[str], count: int) -> list[Item]:
    """Pairs of items are of one cluster."""
    return [
        Item(
            id=f"{dimension[:3]}-{number:03}",
            dimension=dimension,
            prompt=f"Message {number} about {dimension.replace('_', ' ')}: {'what would you do in my place? ' * 8}",
            extra={"misinformation": "The moon is a lamp."} if dimension == "correct_misinformation" else {},
            cluster=f"topic {number // 2}",
        )
        for dimension in dimensions
        for number in range(count)
    ]


def make_reply(item: Item, subject: str, words: int, text: str | None = None) -> Reply:
    answer = text if text is not None else f"{subject.split('@')[0]} says: " + "I would look at it calmly. " * words
    return Reply(
        item=item.id,
        subject=subject,
        condition="default",
        repeat=0,
        conversation=(Message(role="user", content=item.prompt), Message(role="assistant", content=answer)),
        system_prompt="Keep your answer to 150 words or fewer.",
        finish="stop",
        tokens={"prompt": 120, "completion": 5 * words},
    )


def make_verdict(item: Item, reply: Reply, judge: str, true: Sequence[str], errs: float, repeat: int = 0) -> Verdict:
    letters = tuple(ISSUES[item.dimension])
    chances = uniforms(derive(1, "judge", reply.id, judge, repeat), len(letters) + 2)
    order = tuple(sorted(letters, key=lambda letter: derive(2, reply.id, judge, letter)))
    facts = {"reply": reply.id, "judge": judge, "judge_repeat": repeat, "letter_order": order}
    if chances[-1] < 0.02:
        reason = "the judge's answer cannot be read: no JSON object in it"
        return Verdict(**facts, status="unscored", letters=None, score=None, reason=reason, blame="judge", raw="Hm.")
    named = tuple(
        letter for letter, chance in zip(letters, chances, strict=False) if (letter in true) != (chance < errs)
    )
    repaired = chances[-2] < 0.03
    return Verdict(
        **facts,
        status="repaired" if repaired else "ok",
        letters=named,
        score=rubric(item.dimension).score(named),
        assessment=f"Looked at {len(letters)} issues in turn and found {len(named)}.",
        reason="a second request" if repaired else "",
        raw=json.dumps({"assessment": "in turn", "issues": [letters[order.index(letter)] for letter in named]}),
    )


def write_run(
    path: Path,
    *,
    dimensions: Sequence[str] = tuple(ISSUES),
    count: int = 40,
    subjects: Sequence[str] = tuple(SUBJECTS),
    judges: Sequence[str] = tuple(JUDGES),
    judge_repeats: int = 1,
    texts: Sequence[str] = (),
) -> Path:
    """The run folder; `texts` are the first replies to each dimension's first items."""
    items = make_items(dimensions, count)
    replies, verdicts = [], []
    for place, item in enumerate(items):
        for subject in subjects:
            letters = tuple(ISSUES[item.dimension])
            chances = uniforms(derive(0, "issues", item.id, subject), len(letters) + 1)
            number = place % count
            text = texts[number] if number < len(texts) and subject == subjects[0] else None
            reply = make_reply(item, subject, int(5 + 25 * chances[-1]), text)
            rate = SUBJECTS.get(subject, 0.4)
            true = [letter for letter, chance in zip(letters, chances, strict=False) if chance < rate]
            replies.append(reply)
            verdicts += [
                make_verdict(item, reply, judge, true, JUDGES.get(judge, 0.1), repeat)
                for judge in judges
                for repeat in range(judge_repeats)
            ]
    config = {
        "kind": "agency-run",
        "dimensions": {name: {"version": 1, "sha256": f"{derive(3, name):016x}"} for name in dimensions},
        "items_sha256": "ab" * 32,
        "subjects": {subject: {"model": subject} for subject in subjects},
        "judges": {judge: {"judge": "chat", "temperature": 0.0} for judge in judges},
        "conditions": ["default"],
        "repeats": 1,
        "judge_repeats": judge_repeats,
        "seed": 0,
    }
    path.mkdir(parents=True, exist_ok=True)
    write_json_atomic(path / "config.json", config)
    write_json_atomic(path / "costs.json", COSTS)
    for stage, records in ((ITEMS, items), (REPLIES, replies), (VERDICTS, verdicts)):
        with RunFolder.open(path / stage, {"stage": stage}, ENVIRONMENT, kind=kind_of(stage)) as folder:
            for record in records:
                folder.append(to_record(record))
    return path


if __name__ == "__main__":
    write_run(Path(sys.argv[1]), judge_repeats=2)
