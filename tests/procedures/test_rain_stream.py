"""Answers in pieces: they make up the answer, and nothing that was shown is taken back."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from inferalign.core.errors import EngineError, ScoringError
from inferalign.core.types import Candidate, Completion, Piece, Result, StopReason, TokenIds, Unscored, Usage
from inferalign.engines.chat import ChatFormat
from inferalign.procedures.rain import Rain
from inferalign.procedures.rain_answer import Shown, cut_at_end, settled
from inferalign.procedures.rain_settings import DEFAULT, PAPER, RainSettings
from tests.procedures.searches import dislikes_a, rain, run, zero
from tests.toy import END, CharChat, a_prompt


def pieces(procedure: Rain) -> list[Piece]:
    async def collect() -> list[Piece]:
        return [piece async for piece in procedure.stream(a_prompt())]

    return asyncio.run(collect())


def comparable(result: Result) -> Result:
    return replace(result, seconds=0.0)


@pytest.mark.parametrize("settings", [DEFAULT, PAPER, replace(DEFAULT, budget_iterations=40)], ids=["d", "p", "b"])
@pytest.mark.parametrize("end", [-9.0, 1.5])
def test_the_pieces_are_the_answer_that_a_call_gives(settings: RainSettings, end: float) -> None:
    called = run(rain(dislikes_a, settings, end=end))
    streamed = pieces(rain(dislikes_a, settings, end=end))
    assert "".join(piece.text for piece in streamed) == called.response.text
    assert tuple(token for piece in streamed for token in piece.token_ids) == called.response.token_ids
    assert [piece.result is None for piece in streamed[:-1]] == [True] * (len(streamed) - 1)
    assert streamed[-1].result is not None
    assert comparable(streamed[-1].result) == comparable(called)
    assert all(piece.text for piece in streamed[:-1])
    if end < 0:
        assert len(streamed) > 2


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("settings", [DEFAULT, PAPER], ids=["default", "paper"])
def test_no_part_of_the_next_turns_marker_is_shown(settings: RainSettings, length: int) -> None:
    """The marker is of what the same search says without one: its first half stands alone before it, too."""
    for seed in range(3):
        free = pieces(rain(zero, settings, seed=seed, end=-9.0, max_new_tokens=40))[-1].result
        assert free is not None
        text = free.response.text
        marker = text[len(text) // 2 :][:length]
        assert len(marker) == length
        chat = CharChat(stop_strings=(marker,))
        streamed = pieces(rain(zero, settings, seed=seed, end=-9.0, max_new_tokens=40, chat=chat))
        result = streamed[-1].result
        assert result is not None
        assert "".join(piece.text for piece in streamed) == result.response.text
        assert marker not in result.response.text
        assert result.response.stop is StopReason.END, "the marker came"


def test_the_search_works_only_while_it_is_asked_and_stops_at_once() -> None:
    procedure = rain(zero, end=-9.0, max_new_tokens=64)

    async def take_one() -> tuple[int, int, int]:
        async with aclosing(procedure.stream(a_prompt())) as stream:
            async for piece in stream:
                assert piece.result is None
                break
            before = len(procedure.guide.requests)  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)
            waited = len(procedure.guide.requests)  # type: ignore[attr-defined]
        await asyncio.sleep(0.01)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return before, waited, len(procedure.guide.requests)  # type: ignore[attr-defined]

    before, waited, closed = asyncio.run(take_one())
    assert before == waited == closed > 0


def test_a_cancelled_reader_leaves_nothing_behind() -> None:
    async def cancel() -> None:
        async def read() -> None:
            async with aclosing(rain(zero, end=-9.0).stream(a_prompt())) as stream:
                async for _ in stream:
                    await asyncio.sleep(60)

        task = asyncio.create_task(read())
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(cancel())


def test_an_error_of_the_search_reaches_the_reader() -> None:
    with pytest.raises(ScoringError, match="the judge is away"):
        pieces(rain(lambda prompt, response: Unscored("the judge is away", blame="judge")))


# Four ways in which a text grows with its tokens.


def byte_level() -> ChatFormat:
    """One token a byte, decoded together, as in GPT-2."""
    letters = [chr(i) for i in (*range(33, 127), *range(161, 173), *range(174, 256))]
    rest = [chr(256 + i) for i in range(256 - len(letters))]
    tokenizer = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(letters + rest)}, unk_token="!"))
    tokenizer.decoder = decoders.ByteLevel()
    return wrapped(tokenizer)


def byte_fallback() -> ChatFormat:
    """Words with a leading mark, and single bytes that are read in runs, as in Llama 2."""
    names = ["▁", "▁a", "b", "€", "Hu", "man:", *(f"<0x{i:02X}>" for i in (0x0A, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x41))]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="b"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return wrapped(tokenizer)


def word_pieces() -> ChatFormat:
    tokenizer = Tokenizer(
        models.WordLevel({name: i for i, name in enumerate(["a", "##b", ".", "'", "s"])}, unk_token="a")
    )
    tokenizer.decoder = decoders.WordPiece()
    return wrapped(tokenizer)


def wrapped(tokenizer: Tokenizer) -> ChatFormat:
    from transformers import PreTrainedTokenizerFast

    tokenizer.add_special_tokens(["<s>", "</s>"])
    return ChatFormat(PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"))


FORMATS = {"byte level": byte_level(), "byte fallback": byte_fallback(), "word pieces": word_pieces()}


def grow(chat: ChatFormat, sets: list[TokenIds]) -> tuple[str, str]:
    """What was shown of an answer that grew by these sets, and its text."""
    shown, committed, text = Shown(chat), (), ""
    for token_ids in sets:
        committed += token_ids
        if piece := shown.grown(committed):
            text += piece.text
    ids = cut_at_end(chat, committed)
    completion = Completion(token_ids=ids, text=chat.decode(ids), stop=StopReason.LENGTH)
    result = Result(
        prompt=a_prompt(), candidates=(Candidate(completion=completion),), chosen=0, usage=Usage(), seconds=0.0
    )
    return text + shown.last(result).text, completion.text


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
def test_what_is_shown_is_the_text_for_every_kind_of_tokenizer(name: str, data: st.DataObject) -> None:
    chat = FORMATS[name]
    token = st.integers(0, len(chat._tokenizer) - 1)
    sets = data.draw(st.lists(st.lists(token, min_size=1, max_size=4).map(tuple), max_size=8))
    shown, text = grow(chat, sets)
    assert shown == text


@given(st.lists(st.text("Hum\nan: ", min_size=1, max_size=4), max_size=12))
def test_what_is_shown_is_the_text_where_markers_begin_and_come_to_nothing(texts: list[str]) -> None:
    chat = CharChat(stop_strings=("\nHuman:", ": n"))
    shown, text = grow(chat, [chat.encode(text) for text in texts])  # type: ignore[arg-type]
    assert shown == text


def test_held_back_by_hand() -> None:
    chat = CharChat(stop_strings=("\nHuman:",))
    held = {
        "ab": "ab",
        "ab\nHum": "ab",
        "ab\nHug": "ab\nHug",
        "a\n\nHu": "a",
        "a\n\nHug": "a\n\nHug",
        "ab\nHuman:": "ab",
    }
    for text, kept in held.items():
        assert chat.decode(settled(chat, chat.encode(text))) == kept
    assert settled(chat, (*chat.encode("ab"), END, *chat.encode("cd"))) == chat.encode("ab")
    bytes_ = FORMATS["byte level"]
    euro = tuple(bytes_._tokenizer.convert_tokens_to_ids(list("âĤ¬")))
    assert [len(settled(bytes_, euro[:n])) for n in (1, 2, 3)] == [0, 0, 3]


def test_a_tokenizer_that_takes_text_back_is_an_error_and_not_another_answer() -> None:
    class Fickle(CharChat):
        def decode(self, ids: TokenIds) -> str:
            text = super().decode(ids)
            return text.upper() if len(text) > 3 else text

    chat: Any = Fickle()
    with pytest.raises(EngineError, match="use `generate`"):
        grow(chat, [chat.encode("ab"), chat.encode("cd")])
