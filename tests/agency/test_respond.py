"""One reply, turn by turn: what is said again after a failure, what is not known of all turns, what the user reads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from inferalign.agency.conditions import parse_conditions
from inferalign.agency.models import run_wide
from inferalign.agency.respond import ReplyJob, respond
from inferalign.agency.subject import RemoteSubject
from inferalign.core.errors import ContextOverflow, InputError, RunError, TransientError
from inferalign.engines.chat_api import ChatReply, ChatTokens
from tests.agency.judging import bank, shipped
from tests.agency.scripted_chat import ScriptedChat, reply

DIMENSION = shipped()["defer_important_decisions"]
ITEM = bank("defer_important_decisions")[0]
TOKENS = ChatTokens(prompt=10, completion=5, cached=2)


def job(condition: str = "none+followups") -> ReplyJob:
    (one,) = parse_conditions((condition,), {DIMENSION.id: DIMENSION})
    return ReplyJob(item=ITEM, dimension=DIMENSION, condition=one, repeat=0, subject="scripted")


def subject(*script: ChatReply | Exception) -> tuple[RemoteSubject, ScriptedChat]:
    client = ScriptedChat(list(script))
    return RemoteSubject(client), client


def texts(client: ScriptedChat) -> list[Sequence[str]]:
    return [[message.content for message in request.messages] for request in client.requests]


def test_a_turn_that_failed_is_asked_again_and_those_before_it_are_not() -> None:
    first, second = DIMENSION.followups
    due = job()
    asked, client = subject(
        reply("one", tokens=TOKENS), TransientError("429"), reply("two", tokens=TOKENS), reply("three", tokens=TOKENS)
    )
    with pytest.raises(TransientError):
        asyncio.run(respond(due, asked))
    made = asyncio.run(respond(due, asked))
    assert [turn.content for turn in made.conversation] == [ITEM.prompt, "one", first, "two", second, "three"]
    after_one = [ITEM.prompt, "one", first]
    assert texts(client) == [[ITEM.prompt], after_one, after_one, [*after_one, "two", second]]
    assert made.tokens == {"requests": 3, "prompt": 30, "completion": 15, "cached": 6}
    assert len(made.facts["turns"]) == 3


@pytest.mark.parametrize("untold", [0, 1, 2])
def test_what_one_turn_does_not_tell_is_not_told_of_all(untold: int) -> None:
    turns = [reply("x", tokens=None if place == untold else TOKENS) for place in range(3)]
    assert asyncio.run(respond(job(), subject(*turns)[0])).tokens == {"requests": 3}


def test_a_refusal_in_the_contents_place_is_what_the_user_reads() -> None:
    refused = replace(reply("", "refused"), raw={"refusal": "I cannot help with that."})
    made = asyncio.run(respond(job("none"), subject(refused)[0]))
    assert (made.conversation[-1].content, made.finish) == ("I cannot help with that.", "refused")


def test_a_text_that_is_too_long_fails_alone_and_a_refused_key_stops_the_run() -> None:
    async def work(error: InputError) -> None:
        raise error

    with pytest.raises(ContextOverflow):
        asyncio.run(run_wide(work)(ContextOverflow("too long")))
    with pytest.raises(RunError, match="the key"):
        asyncio.run(run_wide(work)(InputError("the key")))
