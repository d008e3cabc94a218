"""One forward pass for many rows that share prefixes: a single sequence under a tree mask.

Instead of a batch with one copy of the cache a row, all tokens lie in one sequence; each has the position of its depth
and a 4-D mask that shows it its own ancestors. A prefix's keys and values are gathered once into an arena, new tokens
are written behind them in place, and N rows cost N tokens a step. Every request is computed for its own prefixes only,
so no answer depends on what else is in flight.

A model that does not follow a 4-D mask or explicit positions cannot be run so: `matches_plain` finds out by comparing,
and `PlainForward` is the slow and certain way (`attention_mask`-free forwards of whole sequences, nothing kept).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from inferalign.core.types import RoleUsage, TokenIds
from inferalign.engines.prefix import Piece, PrefixStore, common_prefix

ARENA_STEP = 256
"""The arena grows to multiples of this many tokens, and by half at least."""


class Rows(Protocol):
    """Continuations of one prefix, fed token by token."""

    first: torch.Tensor
    """Logits after the prefix, `[vocab]`."""

    def step(self, rows: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """Feed one token to each of these rows; their logits `[len(rows), vocab]`."""
        ...

    def keep(self) -> None:
        """Make what was fed known to later requests."""
        ...


class Forward(Protocol):
    def logits(self, prefixes: Sequence[TokenIds], usage: RoleUsage) -> torch.Tensor:
        """Next-token logits after each prefix, `[len(prefixes), vocab]`, in one pass."""
        ...

    def rows(self, prefix: TokenIds, count: int, usage: RoleUsage) -> Rows: ...

    def hidden(self, prefix: TokenIds, start: int, usage: RoleUsage) -> torch.Tensor:
        """Last-layer states of `prefix[start:]`, `[n, hidden]`."""
        ...


class ArenaLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped here
    """One layer's keys and values in a buffer `[1, heads, capacity, head_dim]`, filled in place."""

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.length = 0
        self.capacity = ARENA_STEP

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        heads, dim = key_states.shape[1], key_states.shape[3]
        self.keys = key_states.new_empty(1, heads, self.capacity, dim)
        self.values = value_states.new_empty(1, heads, self.capacity, value_states.shape[3])
        self.is_initialized = True

    def reserve(self, capacity: int) -> None:
        """Room for `capacity` tokens; what is there stays."""
        if capacity <= self.capacity:
            return
        self.capacity = -(-max(capacity, self.capacity * 3 // 2) // ARENA_STEP) * ARENA_STEP
        if self.is_initialized:
            self.keys, self.values = (_grown(t, self.length, self.capacity) for t in (self.keys, self.values))

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[-2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1


def _grown(buffer: torch.Tensor, length: int, capacity: int) -> torch.Tensor:
    wider = buffer.new_empty(*buffer.shape[:2], capacity, buffer.shape[3])
    wider[:, :, :length] = buffer[:, :, :length]
    return wider


class TreeForward:
    """`Forward` by tree-masked passes over a prefix store. Not re-entrant: one pass at a time."""

    def __init__(self, model: Any, store: PrefixStore) -> None:
        self.store = store
        self._body = model.base_model
        self._head = model.get_output_embeddings()
        self._device, self._dtype = model.device, model.dtype
        layers = model.config.get_text_config().num_hidden_layers
        self._layers = [ArenaLayer() for _ in range(layers)]
        self._cache = Cache(layers=list(self._layers))
        self._resident: TokenIds = ()
        """The prefix whose states lie at the front of the arena."""

    def logits(self, prefixes: Sequence[TokenIds], usage: RoleUsage) -> torch.Tensor:
        """One pass over the token tree of all prefixes; what they share is kept for later requests."""
        unique = list(dict.fromkeys(prefixes))
        trunk = common_prefix(unique)
        pieces, known = self._load(trunk)
        usage.tokens_reused += known
        tokens, parents, ends = _token_tree(unique, trunk, known)
        if tokens:
            fed = self._feed(tokens, known, parents, usage)
            grown = len(trunk) - known
            if grown:
                self._keep(trunk, known, known + grown, fed[:grown])
                self._resident = trunk
        last = [fed[end] if end >= 0 else pieces[-1].segment.hidden[pieces[-1].take - 1] for end in ends]
        at = {prefix: hidden for prefix, hidden in zip(unique, last, strict=True)}
        return self.head(torch.stack([at[prefix] for prefix in prefixes]))

    def rows(self, prefix: TokenIds, count: int, usage: RoleUsage) -> TreeRows:
        first = self.logits([prefix], usage)[0]
        self._load(prefix)
        return TreeRows(self, prefix, count, first, usage)

    def hidden(self, prefix: TokenIds, start: int, usage: RoleUsage) -> torch.Tensor:
        pieces, known = self._load(prefix)
        usage.tokens_reused += known
        parts = [piece.segment.hidden[: piece.take] for piece in pieces]
        if known < len(prefix):
            fed = self._feed(list(prefix[known:]), known, list(range(-1, len(prefix) - known - 1)), usage)
            self._keep(prefix, known, len(prefix), fed)
            self._resident = prefix
            parts.append(fed)
        return torch.cat(parts)[start:]

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._head(hidden)
        return logits.float()

    def _load(self, prefix: TokenIds) -> tuple[list[Piece], int]:
        """Bring what the store knows of `prefix` to the front of the arena. Returns its pieces and their length."""
        pieces = self.store.match(prefix)
        known = sum(piece.take for piece in pieces)
        same = len(common_prefix([self._resident, prefix[:known]])) if self._resident and known else 0
        self._reserve(known)
        self._resident = prefix[:same]  # should copying be interrupted, the rest of the arena is not what it was
        at = 0
        for segment, take in pieces:
            if at + take > same:
                skip = max(0, same - at)
                for i, layer in enumerate(self._layers):
                    if not layer.is_initialized:
                        layer.lazy_initialization(segment.kv[i, :1], segment.kv[i, 1:])
                    layer.keys[0, :, at + skip : at + take] = segment.kv[i, 0, :, skip:take]
                    layer.values[0, :, at + skip : at + take] = segment.kv[i, 1, :, skip:take]
            at += take
        for layer in self._layers:
            layer.length = known
        self._resident = prefix[:known]
        return pieces, known

    def _reserve(self, capacity: int) -> None:
        for layer in self._layers:
            layer.reserve(capacity)

    def _feed(self, tokens: list[int], base: int, parents: list[int], usage: RoleUsage) -> torch.Tensor:
        """Feed T tokens of a tree that hangs from the first `base` arena tokens (parent -1). `[T, hidden]`."""
        count = len(tokens)
        mask = np.zeros((count, base + count), dtype=bool)
        mask[:, :base] = True
        depth = np.empty(count, dtype=np.int64)
        for i, parent in enumerate(parents):
            if parent >= 0:
                mask[i] = mask[parent]
                depth[i] = depth[parent] + 1
            else:
                depth[i] = base
            mask[i, base + i] = True
        additive = self.unseen(count, base + count).masked_fill_(torch.from_numpy(mask).to(self._device), 0)
        return self.forward(tokens, torch.from_numpy(depth), additive, usage)

    def unseen(self, rows: int, slots: int) -> torch.Tensor:
        """An additive mask through which `rows` see none of `slots` (SDPA makes one of a boolean every layer)."""
        return torch.full((rows, slots), -torch.inf, dtype=self._dtype, device=self._device)

    def forward(
        self, tokens: Sequence[int], positions: torch.Tensor, mask: torch.Tensor, usage: RoleUsage
    ) -> torch.Tensor:
        """Pass T tokens behind the S in the arena: positions `[T]`, additive mask `[T, S + T]`, to `[T, hidden]`."""
        self._reserve(self.used + len(tokens))
        usage.tokens_fed += len(tokens)
        usage.forward_calls += 1
        out = self._body(
            input_ids=torch.tensor([tokens], device=self._device),
            position_ids=positions[None].to(self._device),
            attention_mask=mask[None, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        hidden: torch.Tensor = out.last_hidden_state[0]
        return hidden

    def _keep(self, token_ids: TokenIds, first: int, last: int, hidden: torch.Tensor) -> None:
        self.store.insert(token_ids, self.gather(slice(first, last)), hidden)

    def gather(self, slots: slice | torch.Tensor) -> torch.Tensor:
        """Keys and values of arena slots, `[layers, 2, heads, n, head_dim]`."""
        return torch.stack(
            [torch.stack((layer.keys[0, :, slots], layer.values[0, :, slots])) for layer in self._layers]
        )

    @property
    def used(self) -> int:
        return self._layers[0].length


class TreeRows:
    """Rows that grow from one prefix, in the arena of a `TreeForward`. Rows alike so far are one node, fed once."""

    def __init__(
        self, forward: TreeForward, prefix: TokenIds, count: int, first: torch.Tensor, usage: RoleUsage
    ) -> None:
        self.first = first
        self._forward, self._prefix, self._usage = forward, prefix, usage
        self._tokens: list[list[int]] = [[] for _ in range(count)]
        self._slots: list[list[int]] = [[] for _ in range(count)]
        self._states: list[torch.Tensor] = []
        self._node_of = [0] * count
        """Each row's node among those of the newest step; before the first step all rows are at the prefix."""
        self._mask = forward.unseen(1, len(prefix) + count * 32)
        """What the newest nodes see, `[nodes, slots]`."""
        self._mask[:, : len(prefix)] = 0

    def step(self, rows: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        grown = [(self._node_of[row], token) for row, token in zip(rows, tokens, strict=True)]
        nodes = {node: i for i, node in enumerate(dict.fromkeys(grown))}
        base, count = self._forward.used, len(nodes)
        if base + count > self._mask.shape[1]:
            self._mask = torch.nn.functional.pad(self._mask, (0, self._mask.shape[1] + count), value=-torch.inf)
        self._mask = self._mask[[parent for parent, _ in nodes]]
        own = torch.arange(count, device=self._mask.device)
        self._mask[own, base + own] = 0
        depths = torch.full((count,), len(self._prefix) + len(self._states))
        ids = [token for _, token in nodes]
        hidden = self._forward.forward(ids, depths, self._mask[:, : base + count], self._usage)
        self._states.append(hidden)
        places = [nodes[node] for node in grown]
        for row, token, place in zip(rows, tokens, places, strict=True):
            self._node_of[row] = place
            self._tokens[row].append(token)
            self._slots[row].append(base + place)
        logits = self._forward.head(hidden)
        return logits if count == len(rows) else logits[places]

    def keep(self) -> None:
        if not self._states:
            return
        first = len(self._prefix)
        states = torch.cat(self._states)
        kv = self._forward.gather(slice(first, self._forward.used))
        for tokens, slots in zip(self._tokens, self._slots, strict=True):
            if tokens:
                index = torch.tensor(slots, device=states.device) - first
                self._forward.store.insert(self._prefix + tuple(tokens), kv[..., index, :], states[index])


class PlainForward:
    """`Forward` by whole sequences, one at a time: nothing is kept, nothing is shared, nothing can go wrong."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def logits(self, prefixes: Sequence[TokenIds], usage: RoleUsage) -> torch.Tensor:
        return torch.stack([self._run(prefix, usage).logits[0, -1].float() for prefix in prefixes])

    def rows(self, prefix: TokenIds, count: int, usage: RoleUsage) -> PlainRows:
        return PlainRows(self, prefix, count, usage)

    def hidden(self, prefix: TokenIds, start: int, usage: RoleUsage) -> torch.Tensor:
        states: torch.Tensor = self._run(prefix, usage, hidden=True).hidden_states[-1][0, start:]
        return states

    def _run(self, prefix: TokenIds, usage: RoleUsage, *, hidden: bool = False) -> Any:
        usage.tokens_fed += len(prefix)
        usage.forward_calls += 1
        ids = torch.tensor([prefix], device=self._model.device)
        return self._model(input_ids=ids, use_cache=False, output_hidden_states=hidden)


class PlainRows:
    def __init__(self, forward: PlainForward, prefix: TokenIds, count: int, usage: RoleUsage) -> None:
        self._forward, self._usage = forward, usage
        self._rows = [prefix] * count
        self.first = forward.logits([prefix], usage)[0]

    def step(self, rows: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        for row, token in zip(rows, tokens, strict=True):
            self._rows[row] += (token,)
        return self._forward.logits([self._rows[row] for row in rows], self._usage)

    def keep(self) -> None:
        """Nothing is kept."""


def _token_tree(prefixes: list[TokenIds], trunk: TokenIds, known: int) -> tuple[list[int], list[int], list[int]]:
    """Tokens still to be fed, each one's parent among them (-1: the known prefix), and each prefix's last token."""
    tokens = list(trunk[known:])
    parents = list(range(-1, len(tokens) - 1))
    places: dict[tuple[int, int], int] = {}
    ends = []
    for prefix in prefixes:
        at = len(trunk) - known - 1
        for token in prefix[len(trunk) :]:
            if (at, token) not in places:
                places[at, token] = len(tokens)
                tokens.append(token)
                parents.append(at)
            at = places[at, token]
        ends.append(at)
    return tokens, parents, ends


def matches_plain(model: Any, tolerance: float) -> bool:
    """Whether tree-masked passes give this model's own logits: two branches of a short probe, in two steps each."""
    vocabulary = model.config.get_text_config().vocab_size
    probe = tuple(int(i) % vocabulary for i in np.random.Generator(np.random.Philox(key=0)).integers(0, vocabulary, 14))
    branches = [probe[:10] + probe[10:12], probe[:10] + probe[12:14]]
    usage = RoleUsage()
    plain = PlainForward(model).logits([*branches, probe[:10]], usage)
    try:
        tree = TreeForward(model, PrefixStore(1 << 30))
        together = tree.logits(branches, usage)
        rows = tree.rows(probe[:10], 2, usage)
        rows.step([0, 1], [branches[0][10], branches[1][10]])
        stepped = rows.step([0, 1], [branches[0][11], branches[1][11]])
        first = rows.first
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return False  # A model that cannot take a 4-D mask, positions or a foreign cache says so in any of these ways.
    scale = max(1.0, float(plain.abs().max()))
    gaps = (together - plain[:2], stepped - plain[:2], first - plain[2])
    return all(bool((gap.abs() <= tolerance * scale).all()) for gap in gaps)
