"""Chats to token ids and back: the only caller of `apply_chat_template`.

Where the labels of a judgement, the ends of clauses and the ends of answers are decided for each tokenizer, so that
nothing else has to know one. A tokenizer without a chat template gets a plain transcript, whose next-turn marker ends
an answer.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

from inferalign.core.errors import InputError, ModelError
from inferalign.core.types import Message, Prompt, TokenIds

CLAUSE_MARKS = (",", ".", "?", ":", ";", "\n")
TRANSCRIPT_MARKER = "\nHuman:"
_TURNS = {"system": "{}\n\n", "user": "Human: {}\n\n", "assistant": "Assistant: {}\n\n"}


def read_template(path: Path | None) -> str | None:
    """A file of one's own in the place of a tokenizer's chat template. Raises `ModelError` for one without text."""
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(f"cannot read the chat template {path}: {error.strerror}; give a Jinja file") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"the chat template {path} is not UTF-8 text ({error}); give a Jinja file") from error


class ChatFormat:
    """One tokenizer's way of writing chats. `end_ids` beyond the tokenizer's own come from the generation config."""

    def __init__(self, tokenizer: Any, *, template: str | None = None, end_ids: Iterable[int] = ()) -> None:
        """`template` (Jinja) replaces the tokenizer's chat template. Raises `ModelError` for one that is no Jinja."""
        self._tokenizer = tokenizer
        self._template: str | None = template or tokenizer.chat_template
        own = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
        self.end_ids: frozenset[int] = frozenset((*own, *end_ids))
        """Tokens that end an answer."""
        self.stop_strings: tuple[str, ...] = () if self._template else (TRANSCRIPT_MARKER,)
        """Texts that end an answer: the marker of the next user turn, where no token says it."""
        with suppress(InputError):  # a template may refuse this conversation; others are told about their own
            self._written([Message(role="user", content="Question")])

    @cached_property
    def clause_end_ids(self) -> frozenset[int]:
        """Tokens whose text ends in a clause mark: where a simulation pauses."""
        texts = self._tokenizer.batch_decode([[i] for i in range(len(self._tokenizer))])
        return frozenset(i for i, text in enumerate(texts) if text.endswith(CLAUSE_MARKS)) - self.end_ids

    @cached_property
    def unsettled_ids(self) -> frozenset[int]:
        """Tokens after which the text before them may still change.

        Single bytes (`<0x0A>`) are read in runs, so that a later byte of a run can change what its first ones mean;
        special tokens are left out of the text and do not end a run.
        """
        names = self._tokenizer.convert_ids_to_tokens(list(range(len(self._tokenizer))))
        single = (i for i, name in enumerate(names) if re.fullmatch("<0x[0-9A-Fa-f]{2}>", name or ""))
        return frozenset((*single, *self._tokenizer.all_special_ids))

    def describe(self) -> Mapping[str, object]:
        """What a record must say: the tokenizer's vocabulary and the chat template, by their hashes."""
        vocabulary = json.dumps(sorted(self._tokenizer.get_vocab().items())).encode()
        return {
            "tokenizer_sha256": hashlib.sha256(vocabulary).hexdigest(),
            "chat_template": "jinja" if self._template else "transcript",
            "chat_template_sha256": hashlib.sha256(self._template.encode()).hexdigest() if self._template else None,
        }

    def prompt_ids(self, prompt: Prompt) -> TokenIds:
        """What an answer to `prompt` follows: the ids that it came as, or its messages rendered."""
        return self.render(prompt.messages) if prompt.token_ids is None else prompt.token_ids

    def render(self, messages: Sequence[Message]) -> TokenIds:
        """The conversation up to where the next answer begins. Raises `InputError` if the template refuses it."""
        start = self.start_ids if self._template is None else ()
        return start + self.encode(self._written(messages))

    def answered(self, messages: Sequence[Message], answer: str, *, ended: bool) -> TokenIds:
        """The conversation and its answer as text, written as the template writes an assistant's turn.

        An answer that has not `ended` lacks the end of its turn. Raises `InputError` if the template refuses it.
        """
        if self._template is None:
            return self.start_ids + self.encode(self._written(messages) + answer + (self._turn_end if ended else ""))
        text = self._written((*messages, Message(role="assistant", content=answer)), next_answer=False)
        return self.encode(text if ended else text.removesuffix(self._turn_end))

    @cached_property
    def turn_end_ids(self) -> TokenIds:
        """What follows an answer that has ended, where its conversation ends with it."""
        return self.encode(self._turn_end)

    @cached_property
    def _turn_end(self) -> str:
        if self._template is None:
            return _TURNS["assistant"].partition("{}")[2]
        word = "Answer"
        turns = (Message(role="user", content="Question"), Message(role="assistant", content=word))
        return self._written(turns, next_answer=False).rpartition(word)[2]

    def _written(self, messages: Sequence[Message], *, next_answer: bool = True) -> str:
        """The conversation as text; with `next_answer`, up to where the next answer begins."""
        if self._template is None:
            return "".join(_TURNS[message.role].format(message.content) for message in messages) + "Assistant:"
        from jinja2 import TemplateError, TemplateSyntaxError

        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text: str = self._tokenizer.apply_chat_template(
                turns, chat_template=self._template, add_generation_prompt=next_answer, tokenize=False
            )
        except TemplateSyntaxError as error:
            raise ModelError(
                f"the chat template is not valid Jinja, line {error.lineno}: {error.message}; mend it, or give another "
                "(most commands take --chat-template FILE)"
            ) from error
        except TemplateError as error:
            raise InputError(
                f"the chat template refuses this conversation ({' '.join(m.role for m in messages)}): {error}; "
                "change the messages, or the template (most commands take --chat-template FILE)"
            ) from error
        return text

    def user_text(self, token_ids: TokenIds) -> str | None:
        """The last user turn of a conversation that came rendered, or None where this format's marks are not in it."""
        if self._around_user is None:
            return None
        before, after = self._around_user
        _, found, rest = self._shown(token_ids).rpartition(before)
        turn, ended, _ = rest.partition(after)
        return turn if found and ended else None

    @cached_property
    def _around_user(self) -> tuple[str, str] | None:
        """What this format writes before and after a user turn, wherever it stands; None if it writes nothing there.

        Found by rendering a word as the first turn and as a later one: what precedes both times belongs to the turn.
        """
        word = "Question"
        user = Message(role="user", content=word)
        try:
            first, later = (
                self._shown(self.encode(self._written(turns)))
                for turns in ((user,), (user, Message(role="assistant", content="Answer"), user))
            )
        except InputError:
            # The template refuses a second turn, which leaves nothing to compare.
            return None
        (start, _, after), (start_later, _, _) = first.rpartition(word), later.rpartition(word)
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(start[::-1], start_later[::-1], strict=False))
        before = "".join(char for char, _ in alike)[::-1]
        return (before, after) if before and after else None

    def _shown(self, token_ids: Sequence[int]) -> str:
        """Text of token ids with its special tokens, which mark the turns."""
        text: str = self._tokenizer.decode(
            list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def encode(self, text: str) -> TokenIds:
        """Token ids of a text; special tokens written in it are parsed, none are added."""
        # Not verbose: the engine refuses what does not fit, so the tokenizer's warning of a long text says nothing.
        return tuple(self._tokenizer.encode(text, add_special_tokens=False, verbose=False))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, spaces as the tokens have them; special tokens are left out."""
        text: str = self._tokenizer.decode(
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def label_ids(self, tail: str, labels: Sequence[str]) -> TokenIds:
        """The token that each label is after `tail`. Raises `ModelError` unless each is one token, and another."""
        before = self.encode(tail)
        found: list[int] = []
        for label in labels:
            whole = self.encode(tail + label)
            if whole[:-1] != before:
                pieces = self._tokenizer.convert_ids_to_tokens(list(whole[len(before) :] or whole))
                raise ModelError(
                    f"the label {label!r} is not one token after {tail[-24:]!r} for this tokenizer (it becomes "
                    f"{pieces}): name a self-evaluation template whose labels are single tokens (--scorer FILE.toml)"
                )
            found.append(whole[-1])
        if len(set(found)) != len(found):
            raise ModelError(
                f"the labels {list(labels)} become the same token for this tokenizer: name a self-evaluation template "
                "with labels that it can tell apart (--scorer FILE.toml)"
            )
        return tuple(found)

    @cached_property
    def start_ids(self) -> TokenIds:
        """What a text of its own begins with: the begin-of-text token, where the tokenizer adds one."""
        bare, full = self._tokenizer.encode("a", add_special_tokens=False), self._tokenizer.encode("a")
        starts = len(full) > len(bare) and full[0] == self._tokenizer.bos_token_id
        return (full[0],) if starts else ()
