"""Where an answer ends, in tokens and in text: what is cut off it, and how much of a growing one may be shown.

Text is a view of the tokens, so every cut falls between two of them, and a token's text may change with the tokens
after it: half a character becomes a whole one, the beginning of the next turn's marker takes its token away with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferalign.core.errors import EngineError
from inferalign.core.types import Piece, Result, TokenIds

if TYPE_CHECKING:
    from inferalign.engines.chat import ChatFormat

HALF_A_CHARACTER = "\ufffd"
"""What bytes that are no whole character (yet) are read as."""


def has_end(chat: ChatFormat, token_ids: TokenIds) -> bool:
    return any(token in chat.end_ids for token in token_ids)


def has_marker(chat: ChatFormat, token_ids: TokenIds) -> bool:
    """Whether the next user turn begins in this answer (formats without an end-of-text token of their own)."""
    if not chat.stop_strings:
        return False
    text = chat.decode(token_ids)
    return any(marker in text for marker in chat.stop_strings)


def cut_at_end(chat: ChatFormat, token_ids: TokenIds) -> TokenIds:
    """The answer without what follows its end: an end token, or the marker of the next user turn."""
    for i, token in enumerate(token_ids):
        if token in chat.end_ids:
            token_ids = token_ids[:i]
            break
    if not chat.stop_strings:
        return token_ids
    text = chat.decode(token_ids)
    starts = [text.index(marker) for marker in chat.stop_strings if marker in text]
    return _shortened(chat, token_ids, min(starts)) if starts else token_ids


def settled(chat: ChatFormat, token_ids: TokenIds) -> TokenIds:
    """The tokens of a growing answer that stay in it, and whose text stays, whatever comes next."""
    kept = cut_at_end(chat, token_ids)
    while kept:
        text = chat.decode(kept)
        begun = _begun(text, chat.stop_strings)
        if kept[-1] in chat.unsettled_ids or text.endswith(HALF_A_CHARACTER):
            kept = kept[:-1]
        elif begun:
            kept = _shortened(chat, kept, len(text) - begun)
        else:
            break
    return kept


def _begun(text: str, markers: tuple[str, ...]) -> int:
    """Characters at the end of `text` that may be the beginning of a marker."""
    lengths = (n for marker in markers for n in range(1, len(marker)) if text.endswith(marker[:n]))
    return max(lengths, default=0)


def _shortened(chat: ChatFormat, token_ids: TokenIds, length: int) -> TokenIds:
    """Without the last tokens, until the text has at most `length` characters."""
    while len(chat.decode(token_ids)) > length:
        token_ids = token_ids[:-1]
    return token_ids


class Shown:
    """What a reader has seen of one answer. The texts of all pieces, put together, are the answer's text."""

    def __init__(self, chat: ChatFormat) -> None:
        self._chat = chat
        self._token_ids: TokenIds = ()
        self._text = ""

    def grown(self, committed: TokenIds) -> Piece | None:
        """What can be shown now and could not before; None when that is nothing."""
        token_ids = settled(self._chat, committed)
        text = self._chat.decode(token_ids)
        if len(text) <= len(self._text) or not text.startswith(self._text):
            return None
        return self._piece(token_ids, text, None)

    def last(self, result: Result) -> Piece:
        """The rest, with the result. Raises `EngineError` when text that was shown is not in the answer."""
        response = result.response
        if not response.text.startswith(self._text):
            raise EngineError(
                f"the answer to prompt {result.prompt.id!r} was shown as {self._text[-40:]!r}, and its tokenizer now "
                "reads those tokens as another text: use `generate` with this tokenizer, not `stream`"
            )
        return self._piece(response.token_ids, response.text, result)

    def _piece(self, token_ids: TokenIds, text: str, result: Result | None) -> Piece:
        piece = Piece(text=text[len(self._text) :], token_ids=token_ids[len(self._token_ids) :], result=result)
        self._token_ids, self._text = token_ids, text
        return piece
