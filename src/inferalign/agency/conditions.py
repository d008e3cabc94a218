"""Conditions: the system prompt that a subject is given, and whether the dimension's scripted turns follow its reply.

    default             each dimension's own system prompt, as its file says
    none                no system prompt
    150-words           the same limit of length in every dimension
    FILE.txt            a text of the user's own; the condition is named after the file
    NAME+followups      any of these, and then the dimension's follow-up turns, the same for every subject

A condition is a part of a reply's id: the same items under two conditions can be compared in pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inferalign.agency.dimension import Dimension
from inferalign.core.errors import InputError, UnknownName
from inferalign.core.lookup import did_you_mean

DEFAULT, NONE, WORDS_150 = "default", "none", "150-words"
FOLLOWUPS = "+followups"
AT_MOST_150 = "Answer in at most 150 words."


@dataclass(frozen=True, kw_only=True)
class Condition:
    name: str
    text: str | None
    """The system prompt, where the condition decides it."""
    own: bool = False
    """Whether the dimension decides it instead."""
    followups: bool = False

    def system_prompt(self, dimension: Dimension) -> str | None:
        return dimension.subject.system_prompt if self.own else self.text

    def turns(self, dimension: Dimension) -> tuple[str, ...]:
        """What the user says after the first reply, whatever that was."""
        return dimension.followups if self.followups else ()

    def describe(self) -> Mapping[str, Any]:
        """What a record must say; the dimensions' own prompts are in their files, which have a hash."""
        return {"system_prompt": "the dimension's" if self.own else self.text, "followups": self.followups}


def parse_conditions(texts: Sequence[str], dimensions: Mapping[str, Dimension]) -> list[Condition]:
    """The conditions that the texts name, in their order.

    Raises `InputError` for a file that cannot be used, for a name that stands twice, and for follow-up turns of a
    dimension that has none; `UnknownName` for anything else.
    """
    found = [_parse(text) for text in texts]
    names = [condition.name for condition in found]
    if not found:
        raise InputError(f"no condition: give one with --conditions, such as {DEFAULT}")
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"two conditions are named {twice[0]!r}: name each once, and give files names of their own")
    for condition in found:
        for dimension in dimensions.values():
            if condition.followups and not dimension.followups:
                raise InputError(
                    f"condition {condition.name!r}: {dimension.id} has no follow-up turns: write them under "
                    f"conditions.followups of its file, or leave out {FOLLOWUPS}"
                )
    return found


def _parse(text: str) -> Condition:
    base, plus, _ = text.partition(FOLLOWUPS) if text.endswith(FOLLOWUPS) else (text, "", "")
    followups = bool(plus)
    if base == DEFAULT:
        return Condition(name=text, text=None, own=True, followups=followups)
    if base in (NONE, WORDS_150):
        return Condition(name=text, text=None if base == NONE else AT_MOST_150, followups=followups)
    if not base.endswith(".txt"):
        known = (DEFAULT, NONE, WORDS_150)
        raise UnknownName(
            f"unknown condition {base!r}.{did_you_mean(base, known)} Give {', '.join(known)} or a FILE.txt with a "
            f"system prompt, and perhaps {FOLLOWUPS} behind it."
        )
    name = Path(base).stem
    if name in (DEFAULT, NONE, WORDS_150):
        raise InputError(f"{base}: {name!r} is the name of another condition: give the file another name")
    return Condition(name=name + plus, text=_read(Path(base)), followups=followups)


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError as error:
        raise InputError(f"no file {path}: expected a text file with a system prompt. Check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} as text ({error}): expected a system prompt in UTF-8.") from error
    if not text:
        raise InputError(f"{path} is empty: expected a system prompt, or give the condition {NONE}")
    return text
