"""The anchors artefact: K reference rollouts a prompt as their scores, and the card of all that decided them.

    anchors.safetensors     values [P, K] float64, blame [P, K] uint8, lengths [P, K] int32, in the order of the draws
    anchors.json            the card, the prompts' ids in the order of the rows, and the digest of both files' content

Calibration is against the policy that training starts from (InfAlign, arXiv 2412.19792, Eq. (12) and Algorithm 1): its
weights, its chat template, the temperature and the reward are part of what an anchor means. So anchors of any other
setting are refused, with what differs. Nothing here draws or loads a model, and no file is a pickle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from inferalign.core.config import to_dict
from inferalign.core.errors import InputError
from inferalign.core.files import disk_errors, dump_json, read_json, write_bytes_atomic, write_json_atomic
from inferalign.core.records import differences
from inferalign.core.types import Prompt
from inferalign.ctrl.scored import Scored
from inferalign.procedures.base import Sampling

if TYPE_CHECKING:
    from inferalign.engines.base import Engine
    from inferalign.engines.chat import ChatFormat
    from inferalign.scorers.base import Scorer

CARD = "anchors.json"
ARRAYS = "anchors.safetensors"
VERSION = 1
TOP_P = 1.0
"""The engine keeps the whole tail, as training does."""

_MACHINE = ("device", "kernels", "reuses_prefixes")
"""What says where something ran: it moves a score by rounding alone."""
_OTHERS = {
    "prompts_sha256": "the prompts are others (--prompts)",
    "weights": "the model's weights are others (--model)",
}
"""What a hash that differs means."""
_COMPARED = ("weights", "chat", "sampling", "scorer", "prompts_sha256", "k")


@dataclass(frozen=True, kw_only=True)
class AnchorCard:
    """What decided a set of anchors; JSON values. A card of now, to compare with, needs none of the defaults."""

    model: str
    """Its directory's name or hub id."""
    weights: str
    """Its weights by their hash."""
    engine: Mapping[str, Any]
    """What it ran in: arithmetic, device. Recorded, not compared."""
    chat: Mapping[str, Any]
    """Tokenizer and chat template by their hashes."""
    sampling: Mapping[str, Any]
    """Temperature, top_k, top_p, max_new_tokens, and what ends an answer."""
    scorer: Mapping[str, Any]
    """The reward's own description."""
    prompts_sha256: str
    """`prompts_sha256` of the prompts."""
    k: int
    """Rollouts a prompt."""
    seed: int
    """Any seed's draws are as good: recorded, not compared."""
    unscored: Mapping[str, int] = field(default_factory=dict)
    """Rollouts without a score, by blame."""
    usage: Mapping[str, Any] = field(default_factory=dict)
    """What they cost, by role."""
    version: int = VERSION
    digest: str = ""
    """`sha256:...` of what decided the anchors, of the ids and of the three arrays."""

    def decisive(self) -> dict[str, Any]:
        """The settings that decide a draw or a score."""
        names = ("version", "model", "weights", "engine", "chat", "sampling", "scorer", "prompts_sha256", "k", "seed")
        chosen: dict[str, Any] = to_dict({name: getattr(self, name) for name in names})
        return chosen

    def differences(self, now: AnchorCard) -> list[str]:
        """What is another now, in words; nothing when anchors of this card calibrate under `now`, too.

        The machine that either ran on does not count, nor the seed; names count only where no hash stands for them.
        """
        there, here = _compared(self), _compared(now)
        told = [words for name, words in _OTHERS.items() if there[name] != here[name]]
        if there["scorer"].get("scorer") != here["scorer"].get("scorer"):  # then every setting of theirs differs
            names = (side["scorer"].get("scorer") for side in (there, here))
            told.append("the scorer is {} there and {} here (--scorer)".format(*names))
            there, here = ({key: value for key, value in side.items() if key != "scorer"} for side in (there, here))
        there, here = ({key: value for key, value in side.items() if key not in _OTHERS} for side in (there, here))
        return [*told, *differences(there, here)]


@dataclass(frozen=True, eq=False)
class AnchorSet:
    """Scored reference rollouts of P prompts, K each; made by `AnchorSet.of`, or read by `load`."""

    card: AnchorCard
    prompt_ids: tuple[str, ...]
    """[P]: the rows' prompts."""
    scores: Scored
    """[P, K]: row p, column k is draw k of prompt p."""
    lengths: NDArray[np.int32]
    """[P, K]: tokens of each rollout, without the one that ended it."""

    def __post_init__(self) -> None:
        shape = (len(self.prompt_ids), self.card.k)
        if self.scores.shape != shape or self.lengths.shape != shape:
            raise InputError(
                f"anchors of {shape[0]} prompts and k {shape[1]} need arrays of that shape, got scores "
                f"{self.scores.shape} and lengths {self.lengths.shape}"
            )
        if len(set(self.prompt_ids)) != len(self.prompt_ids):
            raise InputError("two rows of anchors have the same prompt id: ids key the draws, give each prompt its own")

    @classmethod
    def of(cls, card: AnchorCard, prompt_ids: Iterable[str], scores: Scored, lengths: NDArray[np.int32]) -> AnchorSet:
        """The set with its card completed: counts of unscored rollouts, and the digest. Raises `InputError`."""
        ids, counts = tuple(prompt_ids), scores.counts
        made = replace(
            card,
            unscored={"response": counts.response, "judge": counts.judge},
            digest=_digest(card, ids, scores, lengths),
        )
        return cls(made, ids, scores, lengths)

    @property
    def tokens(self) -> int:
        """Tokens of all rollouts."""
        return int(self.lengths.sum(dtype=np.int64))

    @property
    def mean_length(self) -> float:
        """Tokens of a rollout, in the mean."""
        return self.tokens / self.lengths.size

    def require(self, now: AnchorCard) -> None:
        """Raises `InputError` that lists what differs when the anchors were not made as `now` would make them."""
        if changes := self.card.differences(now):
            raise InputError(
                f"these anchors were made otherwise ({'; '.join(changes)}): draw new ones with `inferalign calibrate`, "
                "or go back to what they were made with"
            )

    def save(self, folder: Path | str) -> None:
        """Write both files whole or not at all, the card last. Raises `RunError` when the disk refuses."""
        folder = Path(folder)
        arrays = {"values": self.scores.values, "blame": self.scores.blame, "lengths": self.lengths}
        write_bytes_atomic(folder / ARRAYS, save({name: np.ascontiguousarray(a) for name, a in arrays.items()}))
        write_json_atomic(folder / CARD, {**to_dict(self.card), "prompt_ids": list(self.prompt_ids)})

    @classmethod
    def load(cls, folder: Path | str) -> AnchorSet:
        """Read what `save` wrote. Raises `InputError` for a folder without anchors and for damaged or changed files."""
        folder = Path(folder)
        if not (folder / CARD).is_file():
            raise InputError(
                f"there are no anchors in {folder} (no {CARD}): draw them with `inferalign calibrate --run {folder}`, "
                "or repeat that command if it was stopped"
            )
        value = read_json(folder / CARD)
        ids, card = _parse_card(value, folder / CARD)
        arrays = _read_arrays(folder / ARRAYS)
        try:
            made = cls.of(card, ids, Scored(arrays["values"], arrays["blame"]), arrays["lengths"])
        except InputError as error:
            raise InputError(f"{folder / ARRAYS} is damaged ({error}): {_AGAIN}") from error
        if made.card.digest != card.digest:
            raise InputError(
                f"{folder / CARD} says {card.digest[:20]}... and the files hold {made.card.digest[:20]}...: one of "
                f"them was changed or is another run's: {_AGAIN}"
            )
        return made


_AGAIN = "copy both files again, or remove them and repeat `inferalign calibrate`"
_TYPES = {"values": np.float64, "blame": np.uint8, "lengths": np.int32}


def facts(engine: Engine, chat: ChatFormat, scorer: Scorer, sampling: Sampling) -> dict[str, Any]:
    """What a card says of a loaded model and reward: `AnchorCard(**facts(...), prompts_sha256=..., k=..., seed=...)`.

    Raises `InputError` for an engine that does not name its weights: its anchors could not be told from another's.
    """
    described = dict(engine.describe())
    model, weights = described.pop("model", engine.name), described.pop("weights", None)
    if weights is None:
        raise InputError(
            f"the engine {engine.name!r} does not say which weights it runs, so that its anchors could be any model's: "
            "give a model directory or hub id"
        )
    made: dict[str, Any] = to_dict(
        {
            "model": model,
            "weights": weights,
            "engine": described,
            "chat": chat.describe(),
            "sampling": sampling_facts(sampling, chat),
            "scorer": scorer.describe(),
        }
    )
    return made


def sampling_facts(sampling: Sampling, chat: ChatFormat) -> dict[str, Any]:
    """How whole answers are drawn, and what ends them."""
    return {
        "temperature": float(sampling.temperature),
        "top_k": sampling.top_k,
        "top_p": TOP_P,
        "max_new_tokens": sampling.max_new_tokens,
        "stop_ids": sorted(chat.end_ids),
        "stop_strings": list(chat.stop_strings),
    }


def prompts_sha256(prompts: Iterable[Prompt]) -> str:
    """SHA-256 of ids, messages and meta (a scorer may read it), whatever the order: draws are keyed by id."""
    lines = sorted(dump_json(to_dict(prompt)) for prompt in prompts)
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


def _digest(card: AnchorCard, ids: tuple[str, ...], scores: Scored, lengths: NDArray[np.int32]) -> str:
    """Costs are left out: which prompt pays for a shared pass depends on what else was in flight."""
    decided = {**card.decisive(), "prompt_ids": list(ids)}
    whole = hashlib.sha256(json.dumps(decided, sort_keys=True, allow_nan=False).encode())
    for array, kind in ((scores.values, "<f8"), (scores.blame, "u1"), (lengths, "<i4")):
        whole.update(repr(array.shape).encode())
        whole.update(np.ascontiguousarray(array, dtype=kind).tobytes())
    return f"sha256:{whole.hexdigest()}"


def _compared(card: AnchorCard) -> dict[str, Any]:
    chosen = {name: _without_machine(to_dict(getattr(card, name))) for name in _COMPARED}
    return chosen if ":" in card.weights else {"model": card.model, **chosen}


def _without_machine(value: Any) -> Any:
    """Descriptions without where they ran, and without a model's name where its weights have a hash."""
    if not isinstance(value, Mapping):
        return value
    named = ":" in str(value.get("weights", ""))
    return {
        key: _without_machine(child)
        for key, child in value.items()
        if key not in _MACHINE and not (named and key == "model")
    }


def _parse_card(value: Any, path: Path) -> tuple[tuple[str, ...], AnchorCard]:
    if not isinstance(value, dict) or value.get("version") != VERSION:
        version = value.get("version") if isinstance(value, dict) else None
        raise InputError(f"{path} is no anchors card of version {VERSION} (it says {version!r}): {_AGAIN}")
    known = {each.name for each in fields(AnchorCard)} | {"prompt_ids"}
    odd = sorted(known ^ value.keys())
    if odd or not isinstance(value["prompt_ids"], list):
        raise InputError(
            f"{path} is damaged ({', '.join(odd or ['prompt_ids'])} missing, unknown or no list): {_AGAIN}"
        )
    ids = tuple(map(str, value.pop("prompt_ids")))
    return ids, AnchorCard(**value)


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise InputError(f"there is no {path} beside its card: {_AGAIN}")
    with disk_errors(path, "read"):
        data = path.read_bytes()
    try:
        arrays: dict[str, NDArray[Any]] = load(data)
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}): {_AGAIN}") from error
    if {name: array.dtype for name, array in arrays.items()} != {n: np.dtype(t) for n, t in _TYPES.items()}:
        raise InputError(f"{path} is damaged (it holds {', '.join(sorted(arrays)) or 'nothing'}): {_AGAIN}")
    return arrays
