"""Scorers by their text form.

self               the model judges itself: is the reply harmless? FILE.toml asks with a template of one's own
self-agency        the sandbox's other question: does the reply do what its situation asks for?
self-shuffled      the negative control: a verdict by lot for each text, -1 or 1 (self-agency-shuffled, too)
self-flipped:0.2   a judge weakened by coin flips: its verdict, -1 or 1, turned over on that share of the texts
self:DIR           another model judges, with the tokenizer of the one that answers (self-agency:DIR, too)
reward:DIR         a reward model (`reward`: the sandbox's own)
oracle             the sandbox's truth: whether a reply has the main fault of its situation
oracle-quality     ... and its grade, 0 to 11: replies without the main fault tie under the plain one
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from inferalign.core.errors import InputError, ModelError
from inferalign.core.lookup import load, resolve
from inferalign.engines.table import LoadedModel, ModelOptions, is_sandbox
from inferalign.engines.table import load as load_model
from inferalign.scorers.base import Scorer

if TYPE_CHECKING:
    from inferalign.engines.base import Engine
    from inferalign.engines.chat import ChatFormat

SELF = "inferalign.scorers.self_eval:SelfEval"
SHUFFLED = "inferalign.scorers.scripted:shuffled"
FLIPPED = "inferalign.scorers.scripted:flipped"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One scorer, before it is made."""

    maker: str
    """`"module:Name"`."""
    question: Literal["harm", "agency"] | None = "harm"
    """What the model is asked; None asks no model."""
    argument: Literal["judge", "share", "reward"] | None = None
    """What may follow a colon: another model's directory or hub id, (it must) the share of turned signs, a folder."""


SCORERS: dict[str, Kind] = {
    "self": Kind(maker=SELF, argument="judge"),
    "self-agency": Kind(maker=SELF, question="agency", argument="judge"),
    "self-shuffled": Kind(maker=SHUFFLED),
    "self-agency-shuffled": Kind(maker=SHUFFLED, question="agency"),
    "self-flipped": Kind(maker=FLIPPED, argument="share"),
    "self-agency-flipped": Kind(maker=FLIPPED, question="agency", argument="share"),
    "reward": Kind(maker="inferalign.scorers.reward_model:load_beside", question=None, argument="reward"),
    "oracle": Kind(maker="inferalign.sandbox.oracle:OracleScorer", question=None),
    "oracle-quality": Kind(maker="inferalign.sandbox.quality:QualityScorer", question=None),
}
SHIPPED_REWARD = "reward_model"
"""The folder of the sandbox's own reward model, beside its policy's."""


def asks_a_model(text: str) -> bool:
    """Whether the scorer that `text` names puts a question to a model. Raises `UnknownName`."""
    return text.endswith(".toml") or resolve(SCORERS, text.partition(":")[0], "scorer").question is not None


def build_scorer(
    text: str,
    *,
    engine: Engine,
    chat: ChatFormat,
    sandbox: bool,
    form: Literal["vote", "margin"] = "margin",
    options: ModelOptions | None = None,
) -> Scorer:
    """The scorer that `text` names, judging with `engine`'s model unless it names another.

    `sandbox` says that the model is the embedded one, which was trained on its own forms of the question; `options`
    say how another judge is loaded. Raises `UnknownName` with a did-you-mean, `InputError` for an unusable template
    file, argument or question, `ModelError` for unusable labels or a judge with another tokenizer.
    """
    from inferalign.scorers.self_eval import SelfEval, read_template

    if text.endswith(".toml"):
        return SelfEval(engine, chat, read_template(Path(text)), form)
    name, colon, argument = text.partition(":")
    kind = resolve(SCORERS, name, "scorer")
    if colon and kind.argument is None:
        raise InputError(f"scorer {text!r}: `{name}` takes nothing after a colon: give `{name}`")
    share = _share(text, argument) if kind.argument == "share" else None
    make = load(kind.maker)
    if kind.argument == "reward":
        if colon and not argument:
            raise InputError(f"scorer {text!r} names no folder after its colon: give reward:DIR, or `reward` alone")
        return cast(Scorer, make(_reward_folder(argument), engine, chat, _sandbox_folder("model")))
    if kind.question is None:
        return cast(Scorer, make())
    if colon and share is None:
        engine, chat = _other_judge(text, argument, chat, options or ModelOptions())
        sandbox = is_sandbox(argument)
    judge = SelfEval(engine, chat, read_template(_template(text, kind, sandbox)), form)
    if kind.maker == SELF:
        return judge
    return cast(Scorer, make(judge, text) if share is None else make(judge, text, share))


def _template(text: str, kind: Kind, sandbox: bool) -> Path:
    if kind.question == "agency" and not sandbox:
        raise InputError(
            f"scorer {text!r} asks a question that only the sandbox model was trained to answer: give --scorer self, "
            "or a template of your own (--scorer FILE.toml)"
        )
    name = "sandbox-agency" if kind.question == "agency" else "sandbox" if sandbox else "harmless"
    return Path(str(files("inferalign.scorers") / "prompts" / f"{name}.toml"))


def _share(text: str, argument: str) -> float:
    try:
        share = float(argument)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise InputError(f"scorer {text!r}: expected a share from 0 to 1 after the colon: give `self-flipped:0.2`")
    return share


def _other_judge(text: str, model: str, chat: ChatFormat, options: ModelOptions) -> LoadedModel:
    """A judge that reads the answer's own token ids, so that they must mean the same to it."""
    if not model:
        raise InputError(f"scorer {text!r} names no model after its colon: give a model directory, such as self:DIR")
    other = load_model(model, options)
    if other.chat.describe()["tokenizer_sha256"] != chat.describe()["tokenizer_sha256"]:
        raise ModelError(
            f"scorer {text!r}: {model} has another tokenizer than the model that answers, and would read other words: "
            "name a judge made from that model, by `inferalign sandbox train --from DIR`"
        )
    return other


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
