"""Scorers by name: `self` (or a template's path, FILE.toml), `self-shuffled` (the negative control), `oracle`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from inferalign.core.lookup import load, resolve
from inferalign.scorers.base import Scorer

if TYPE_CHECKING:
    from inferalign.engines.base import Engine
    from inferalign.engines.chat import ChatFormat

SCORERS: dict[str, str] = {
    "self": "inferalign.scorers.self_eval:SelfEval",
    "self-shuffled": "inferalign.scorers.scripted:Replaced",
    "oracle": "inferalign.sandbox.oracle:OracleScorer",
}


def build_scorer(
    text: str, *, engine: Engine, chat: ChatFormat, sandbox: bool, form: Literal["vote", "margin"] = "margin"
) -> Scorer:
    """The scorer that `text` names, judging with `engine`'s model where it needs one.

    `sandbox` says that the model is the embedded one, which was trained on its own form of the question. Raises
    `UnknownName` with a did-you-mean, `InputError` for an unusable template file, `ModelError` for unusable labels.
    """
    own_template = text.endswith(".toml")
    name = "self" if own_template else text
    target = load(resolve(SCORERS, name, "scorer"))
    if name == "oracle":
        return cast(Scorer, target())
    from inferalign.scorers.self_eval import SelfEval, read_template

    shipped = Path(str(files("inferalign.scorers") / "prompts" / ("sandbox.toml" if sandbox else "harmless.toml")))
    judge = SelfEval(engine, chat, read_template(Path(text) if own_template else shipped), form)
    if name == "self":
        return judge
    from inferalign.scorers.scripted import shuffled_sign

    return cast(Scorer, target(judge, shuffled_sign, name))
