"""Scorers by name: `self` (or a template's path, FILE.toml), `self-shuffled` (the negative control), `oracle`, and
`reward` (the shipped one) or `reward:DIR`.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from inferalign.core.errors import InputError
from inferalign.core.lookup import load, resolve
from inferalign.scorers.base import Scorer

if TYPE_CHECKING:
    from inferalign.engines.base import Engine
    from inferalign.engines.chat import ChatFormat

SCORERS: dict[str, str] = {
    "self": "inferalign.scorers.self_eval:SelfEval",
    "self-shuffled": "inferalign.scorers.scripted:Replaced",
    "oracle": "inferalign.sandbox.oracle:OracleScorer",
    "reward": "inferalign.scorers.reward_model:load_beside",
}
SHIPPED_REWARD = "reward_model"
"""The folder of the sandbox's own reward model, beside its policy's."""


def build_scorer(
    text: str, *, engine: Engine, chat: ChatFormat, sandbox: bool, form: Literal["vote", "margin"] = "margin"
) -> Scorer:
    """The scorer that `text` names, judging with `engine`'s model where it needs one.

    `sandbox` says that the model is the embedded one, which was trained on its own form of the question. Raises
    `UnknownName` with a did-you-mean, `InputError` for an unusable template file, `ModelError` for unusable labels and
    for a reward model that cannot be loaded.
    """
    own_template = text.endswith(".toml")
    name, colon, argument = ("self", "", "") if own_template else text.partition(":")
    target = load(resolve(SCORERS, name, "scorer"))
    if colon and not (name == "reward" and argument):
        raise InputError(f"scorer {text!r}: only `reward:DIR` takes something after a colon")
    if name == "reward":
        return cast(Scorer, target(_reward_folder(argument), engine, chat, _sandbox_folder("model")))
    if name == "oracle":
        return cast(Scorer, target())
    from inferalign.scorers.self_eval import SelfEval, read_template

    shipped = Path(str(files("inferalign.scorers") / "prompts" / ("sandbox.toml" if sandbox else "harmless.toml")))
    judge = SelfEval(engine, chat, read_template(Path(text) if own_template else shipped), form)
    if name == "self":
        return judge
    from inferalign.scorers.scripted import shuffled_sign

    return cast(Scorer, target(judge, shuffled_sign, name))


def _reward_folder(argument: str) -> Path:
    """What follows `reward:`, or the shipped folder."""
    if argument:
        return Path(argument)
    shipped = _sandbox_folder(SHIPPED_REWARD)
    if not (shipped / "reward.json").is_file():
        raise InputError("no reward model is shipped for the sandbox here: name one with --scorer reward:DIR")
    return shipped


def _sandbox_folder(name: str) -> Path:
    return Path(str(files("inferalign.sandbox"))) / name
