"""A training task whose every law is known: 64 symbols, two a response, so that KL and win rates are sums.

The model is a random Llama of 90,000 weights, the prompts are pairs of symbols, and a response is the end, one symbol
and the end, or two symbols: 4,033 of them. The raw reward is offset_x + scale_x * (w . counts), w normal, so that the
order of a response's symbols makes ties and prompts differ by what calibration takes out. Everything in between is the
project's own: anchors by `calibrate`, beta by the planner, training by `train_ctrl` through TRL. What it ends at is
compared with the exact optimum for the anchors that were stored, p e^(R/beta) / Z prompt by prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from inferalign.core.seeds import derive
from inferalign.core.types import Completion, Message, Prompt, RoleUsage, Score, Unscored
from inferalign.ctrl.anchors import AnchorSet
from inferalign.ctrl.beta import reward_kind
from inferalign.ctrl.reward import CalibratedReward
from inferalign.ctrl.reward_function import RewardFunction
from inferalign.ctrl.roller import Roller
from inferalign.ctrl.rollouts import Local, calibrate
from inferalign.ctrl.run import LOG, train_ctrl
from inferalign.ctrl.saving import MODEL
from inferalign.ctrl.scored import JUDGE, RESPONSE, Scored
from inferalign.ctrl.settings import CtrlSettings
from inferalign.ctrl.stored import StoredRollouts
from inferalign.ctrl.trainer import BETA_METRIC
from inferalign.engines.table import ModelOptions, load
from inferalign.procedures.base import Sampling
from inferalign.theory.procedures import OfN, best_of_n, sample, tied_win_rate, worst_of_n

Floats = NDArray[np.float64]

SYMBOLS, END, LENGTH, PROMPTS = 64, 0, 2, 8
HIDDEN, LAYERS, HEADS = 64, 2, 4
SPREAD = 6.0
"""Times the usual initial weights: the first symbol's law then differs between prompts, without a favourite."""
RESPONSES: tuple[tuple[int, ...], ...] = (
    (),
    *((a,) for a in range(1, SYMBOLS)),
    *((a, b) for a in range(1, SYMBOLS) for b in range(1, SYMBOLS)),
)
"""Without the token that ends them."""
PROCEDURES: Mapping[str, OfN] = {"sample": sample(), "best-of-4": best_of_n(4), "worst-of-4": worst_of_n(4)}
END_TEXT = "<end>"
TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }} {% if m['role'] == 'assistant' %}" + END_TEXT + "{% endif %}{% endfor %}"
)
HIDDEN_SHARE = 0.05
"""About how much of the reference's text cannot be judged, where some of it cannot."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One seed's model, prompts and reward, under `folder`."""

    folder: Path
    seed: int
    anchors: int = 1024
    """K."""
    scales: float = 1.0
    """Standard deviation of log scale_x."""
    unscorable: Literal["", "response", "judge"] = ""
    """Whom the scorer blames for the text that it cannot judge; with "" it judges all."""

    @cached_property
    def model(self) -> Path:
        place = self.folder / "base"
        if not (place / "config.json").exists():
            write_model(place, self.seed)
        return place

    @cached_property
    def prompts(self) -> list[Prompt]:
        pairs = _stream(self.seed, "prompts").choice(np.arange(1, SYMBOLS), size=(PROMPTS, 2), replace=False)
        return [Prompt(id=f"p{i}", messages=(Message(role="user", content=f"{a} {b}"),)) for i, (a, b) in _rows(pairs)]

    @cached_property
    def scores(self) -> Scored:
        """[prompts, responses]."""
        draw = _stream(self.seed, "reward")
        w = np.append(0.0, draw.normal(size=SYMBOLS - 1))
        offsets, widths = 3 * draw.normal(size=PROMPTS), np.exp(self.scales * draw.normal(size=PROMPTS))
        counted = np.array([sum(sorted(w[symbol] for symbol in r)) for r in RESPONSES])
        values = offsets[:, None] + widths[:, None] * counted
        blame = np.zeros(values.shape, dtype=np.uint8)
        if self.unscorable:
            good, odd = set(np.argsort(w)[SYMBOLS // 2 :]), set(range(1, 1 + round(2 * HIDDEN_SHARE * SYMBOLS)))
            hidden = np.array([len(r) == LENGTH and r[0] in good and r[1] in odd for r in RESPONSES])
            blame[:, hidden] = RESPONSE if self.unscorable == "response" else JUDGE
        return Scored(np.where(blame == 0, values, 0.0), blame)

    @cached_property
    def anchor_set(self) -> AnchorSet:
        """Drawn and scored by `calibrate`, and kept in a run folder."""
        engine, chat = self.loaded
        roller = Roller(engine, chat, Table(self), k=self.anchors, seed=self.seed, sampling=SAMPLING)
        made = calibrate(Local(roller, 1), self.prompts, self.rollouts, k=self.anchors, seed=self.seed).anchors
        assert made is not None
        return made

    @property
    def rollouts(self) -> Path:
        return self.folder / f"anchors-{self.name}"

    @property
    def name(self) -> str:
        return f"{self.anchors}-{self.scales:g}{self.unscorable and '-' + self.unscorable}"

    @cached_property
    def loaded(self) -> Any:
        return load(str(self.model), ModelOptions())

    @cached_property
    def reference(self) -> Floats:
        """log p, [prompts, responses]."""
        return law(self.model, self.prompts)


SAMPLING = Sampling(temperature=1.0, max_new_tokens=LENGTH)


class Table:
    """The task's reward as a scorer."""

    name = "counts"

    def __init__(self, task: Task) -> None:
        self._task = task
        self._place = {response: at for at, response in enumerate(RESPONSES)}
        self._row = {prompt.id: row for row, prompt in enumerate(task.prompts)}

    def describe(self) -> Mapping[str, object]:
        return {"scorer": self.name, "seed": self._task.seed, "scales": self._task.scales}

    async def score(self, prompt: Prompt, responses: Sequence[Completion], usage: RoleUsage) -> list[Score | Unscored]:
        scores, blame = self._task.scores.row(self._row[prompt.id]), self._task.unscorable or "judge"
        at = [self._place[tuple(response.token_ids)] for response in responses]
        return [Score(float(scores.values[i])) if scores.scored[i] else Unscored("odd", blame=blame) for i in at]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """Where a policy stands: all by enumeration, win rates in percent against the reference under each procedure."""

    kl: float
    kl_by_prompt: tuple[float, ...]
    wins: Mapping[str, float]
    unscorable: float
    """The share of text that cannot be judged, or 0 where all can."""


def ended(log_policy: Floats, task: Task) -> Ended:
    """KL and win rates of a policy [prompts, responses] on the task's true scores; means over prompts."""
    kls = (np.exp(log_policy) * (log_policy - task.reference)).sum(axis=1)
    values = np.where(task.scores.blame == 0, task.scores.values, -np.inf)
    wins = {name: 0.0 for name in PROCEDURES}
    for row, policy, reference in zip(values, np.exp(log_policy), np.exp(task.reference), strict=True):
        levels, place = np.unique(row, return_inverse=True)
        masses = [np.bincount(place, weights=law, minlength=levels.size) for law in (policy, reference)]
        for name, procedure in PROCEDURES.items():
            wins[name] += 100 / PROMPTS * tied_win_rate(masses[0], masses[1], procedure).win
    hidden = float((np.exp(log_policy) * (task.scores.blame != 0)).sum(axis=1).mean())
    return Ended(kl=float(kls.mean()), kl_by_prompt=tuple(map(float, kls)), wins=wins, unscorable=hidden)


def optimum(task: Task, settings: CtrlSettings, beta: float) -> Floats:
    """log pi of the exact optimum of E[R] - beta KL for the anchors that are stored, [prompts, responses]."""
    rewards = CalibratedReward(task.anchor_set, reward_kind(settings)).rewards(
        [prompt.id for prompt in task.prompts], task.scores
    )
    weights: Floats = task.reference + rewards / beta
    normalised: Floats = weights - np.logaddexp.reduce(weights, axis=1, keepdims=True)
    return normalised


@dataclass(frozen=True, kw_only=True)
class Result:
    """One training's end beside what it should be."""

    name: str
    beta: float
    trained: Ended
    predicted: Ended
    """The exact optimum for the stored rollouts at the same beta; where nothing is predicted, all the same."""
    distance: float
    """KL of the trained policy to that optimum, in nats: (the optimum's objective - the trained one's) / beta."""
    seconds: float
    """Of the training's steps, together."""


def trained(task: Task, name: str, settings: CtrlSettings) -> Result:
    """Train in `task.folder / name`, or take up or read what is there, and measure where it ends."""
    out = task.folder / name
    if not (out / MODEL).exists():
        reward = CalibratedReward(task.anchor_set, reward_kind(settings))
        function = RewardFunction(Table(task), reward, task.prompts, task.loaded.chat)
        offline = settings.algorithm == "offline"
        rollouts = StoredRollouts.read(task.rollouts, task.anchor_set, reward) if offline else None
        train_ctrl(settings, task.model, task.prompts, function, out, anchors=task.anchor_set, rollouts=rollouts)
    steps = [json.loads(line) for line in (out / LOG).read_text().splitlines()]
    beta = steps[-1][BETA_METRIC]
    policy = law(out / MODEL, task.prompts)
    # a judge's failures have no reward: what is right there is what the blamed ones would get
    told = task if task.unscorable != "judge" else blamed(task)
    best = optimum(told, settings, beta)
    return Result(
        name=name,
        beta=beta,
        trained=ended(policy, told),
        predicted=ended(best, told),
        distance=float((np.exp(policy) * (policy - best)).sum(axis=1).mean()),
        seconds=sum(step["step_time"] for step in steps),
    )


def blamed(task: Task) -> Task:
    """The same task with a scorer that says whose fault it is."""
    return Task(folder=task.folder, seed=task.seed, anchors=task.anchors, scales=task.scales, unscorable="response")


def law(model: Path, prompts: Sequence[Prompt]) -> Floats:
    """log pi of every response to every prompt under a saved model, [prompts, responses]."""
    network = AutoModelForCausalLM.from_pretrained(model).eval()
    starts = torch.tensor([[int(symbol) for symbol in prompt.messages[0].content.split()] for prompt in prompts])
    rows = []
    with torch.no_grad():
        for start in starts:
            after = torch.cat([start.expand(SYMBOLS, -1), torch.arange(SYMBOLS)[:, None]], dim=1)
            logs = network(after).logits[:, -2:].double().log_softmax(dim=-1)
            first, second = logs[0, 0], logs[:, 1]
            alone = first[1:] + second[1:, END]
            pairs = first[1:, None] + second[1:, 1:]
            rows.append(torch.cat([first[:1], alone, pairs.flatten()]).numpy())
    return np.stack(rows)


def write_model(folder: Path, seed: int) -> Path:
    """A random Llama over the symbols, with a tokenizer whose texts are their numbers."""
    torch.manual_seed(derive(seed, "base") % 2**63)
    ends = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": END}
    config = LlamaConfig(
        vocab_size=SYMBOLS,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=16,
        **ends,
    )
    network = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.mul_(SPREAD)
    network.save_pretrained(folder)
    # the end's text is part of no number: special tokens are found inside others
    texts = {END_TEXT: END, **{str(symbol): symbol for symbol in range(1, SYMBOLS)}}
    words = Tokenizer(models.WordLevel(texts, unk_token=END_TEXT))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=words, eos_token=END_TEXT, pad_token=END_TEXT)
    wrapped.chat_template = TEMPLATE
    wrapped.save_pretrained(folder)
    return folder


def _stream(seed: int, what: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=derive(seed, "short task", what)))


def _rows(pairs: NDArray[np.int64]) -> list[tuple[int, tuple[int, int]]]:
    return [(i, (int(a), int(b))) for i, (a, b) in enumerate(pairs)]
