"""The tree of one search as JSON lines, for later viewing: every node once, with its final numbers.

    {"schema":1,"kind":"rain-tree","prompt":"p1","seed":0,"settings":{...},"columns":["id","parent",...]}
    {"chosen":4,"iterations":16,"visits":7.2,"value":0.4,"nodes":[[0,null,[],"",false,false,1.0,16.0,16,0.2],...]}
    {"answer":"...","token_ids":[...],"stop":"end","score":{"value":0.5},"ran_out":null,"nodes":[...]}

A commit's line has the nodes that leave the tree with it: the root and all below it but the chosen child and what is
below that, which are still to change. `visits` and `value` beside `chosen` are the chosen child's when it was chosen.
The last line has what was still in the tree at the end. A file is written whole when its search has ended: one that
was stopped has no record either, is searched again, and writes it then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from inferalign.core.errors import RunError
from inferalign.core.files import disk_errors, dump_json, parse_json, write_bytes_atomic
from inferalign.core.types import Completion, Score, TokenIds, Unscored
from inferalign.procedures.rain_settings import RainSettings
from inferalign.procedures.rain_tree import Node

SCHEMA = 1
KIND = "rain-tree"
COLUMNS = ("id", "parent", "token_ids", "text", "ended", "dropped", "prior", "visits", "own_visits", "value")
TYPES: dict[str, tuple[type, ...]] = {
    "id": (int,),
    "parent": (int, type(None)),
    "token_ids": (list,),
    "text": (str,),
    "ended": (bool,),
    "dropped": (bool,),
    "prior": (int, float),
    "visits": (int, float),
    "own_visits": (int,),
    "value": (int, float),
}


def tree_path(folder: Path, prompt_id: str) -> Path:
    """Where a prompt's tree is, under the run's `trees` folder: named by a hash, since an id may hold any character."""
    return folder / f"{hashlib.sha256(prompt_id.encode()).hexdigest()[:16]}.jsonl"


class TreeWriter:
    """Collects the tree of one search as it passes, and writes it when the search has ended."""

    def __init__(
        self, folder: Path, prompt_id: str, seed: int, settings: RainSettings, decode: Callable[[TokenIds], str]
    ) -> None:
        self.path = tree_path(folder, prompt_id)
        self._decode = decode
        self._next_id = 1
        self._root_id = 0
        self._root_parent: int | None = None
        self._dropped: dict[Node, list[Node]] = {}
        self._lines: list[bytes] = []
        self._line(
            {
                "schema": SCHEMA,
                "kind": KIND,
                "prompt": prompt_id,
                "seed": seed,
                "settings": asdict(settings),
                "columns": COLUMNS,
            }
        )

    def drop(self, child: Node) -> None:
        """`child` could not be judged and is about to leave; it is written with its parent."""
        assert child.parent is not None
        self._dropped.setdefault(child.parent, []).append(child)

    def commit(self, root: Node, child: Node, iterations: int) -> None:
        """`child` is about to become the root."""
        nodes, chosen = self._leaving(root, child)
        self._line(
            {"chosen": chosen, "iterations": iterations, "visits": child.visits, "value": child.value, "nodes": nodes}
        )
        self._root_id, self._root_parent = chosen, self._root_id

    def end(self, root: Node, answer: Completion, score: Score | Unscored, ran_out: str | None) -> None:
        """The search has ended with `root` as what was committed last. Raises `RunError` when the disk refuses."""
        nodes, _ = self._leaving(root, None)
        self._line(
            {
                "answer": answer.text,
                "token_ids": answer.token_ids,
                "stop": str(answer.stop),
                "score": asdict(score),
                "ran_out": ran_out,
                "nodes": nodes,
            }
        )
        write_bytes_atomic(self.path, b"".join(self._lines))

    def _leaving(self, root: Node, kept: Node | None) -> tuple[list[list[Any]], int]:
        """Rows of the tree without the subtree of `kept`, and the id given to `kept`; siblings' ids go up in order."""
        rows, kept_id = [], -1
        todo = [(root, self._root_id, self._root_parent, False)]
        while todo:
            node, number, parent, dropped = todo.pop()
            rows.append(self._row(node, number, parent, dropped))
            gone = self._dropped.pop(node, [])
            for child in (*node.children, *gone):
                if child is kept:
                    kept_id = self._next_id
                else:
                    todo.append((child, self._next_id, number, child in gone))
                self._next_id += 1
        return rows, kept_id

    def _row(self, node: Node, number: int, parent: int | None, dropped: bool) -> list[Any]:
        text = self._decode(node.token_ids)
        numbers = (node.prior, node.visits, node.own_visits, node.value)
        return [number, parent, node.token_ids, text, node.ended, dropped, *numbers]

    def _line(self, values: Mapping[str, Any]) -> None:
        self._lines.append(dump_json(values) + b"\n")


@dataclass(frozen=True, kw_only=True)
class TreeNode:
    """One node as it was when it left the tree."""

    id: int
    parent: int | None
    """None for the first root."""
    token_ids: TokenIds
    text: str
    """Of its tokens by themselves."""
    ended: bool
    dropped: bool
    """It could not be judged."""
    prior: float
    visits: float
    own_visits: int
    value: float
    children: list[int] = field(default_factory=list)
    """Ids, in the order in which they were proposed; dropped ones come last."""


@dataclass(frozen=True, kw_only=True)
class Tree:
    """One search: its nodes by id (the first root is 0), and its commits in order."""

    prompt_id: str
    seed: int
    settings: Mapping[str, Any]
    nodes: Mapping[int, TreeNode]
    commits: Sequence[Mapping[str, Any]]
    """`chosen`, `iterations`, `visits`, `value` of each."""
    answer: Mapping[str, Any]
    """`answer`, `token_ids`, `stop`, `score`, `ran_out`."""


HEADER = {"schema": int, "kind": str, "prompt": str, "seed": int, "settings": dict, "columns": list}
COMMIT = {"chosen": int, "iterations": int, "visits": (int, float), "value": (int, float), "nodes": list}
ANSWER = {
    "answer": str,
    "token_ids": list,
    "stop": str,
    "score": dict,
    "ran_out": (str, type(None)),
    "nodes": list,
}


def read_tree(path: Path) -> Tree:
    """The tree that a search wrote. Raises `RunError`, with the line's number, for a line that is not as above."""
    with disk_errors(path, "read"):
        lines = path.read_bytes().splitlines()
    if len(lines) < 2:
        raise RunError(f"{path} has {len(lines)} lines: expected a tree of `generate --trees`, whole.")
    nodes: dict[int, TreeNode] = {}
    at: dict[int, int] = {}
    commits = []
    header = _values(path, 1, lines[0], HEADER)
    if (header["schema"], header["kind"], header["columns"]) != (SCHEMA, KIND, list(COLUMNS)):
        raise _malformed(path, 1, f"it is no header of a {KIND} of schema {SCHEMA}")
    for number, line in enumerate(lines[1:], start=2):
        values = _values(path, number, line, ANSWER if number == len(lines) else COMMIT)
        for row in values.pop("nodes"):
            node = _node(path, number, row)
            if node.id in nodes:
                raise _malformed(path, number, f"node {node.id} stands at line {at[node.id]} already")
            nodes[node.id], at[node.id] = node, number
        commits.append((number, values))
    _, answer = commits.pop()
    for node in sorted(nodes.values(), key=lambda node: node.id):
        if node.parent is not None and node.parent not in nodes:
            raise _malformed(path, at[node.id], f"node {node.id} has the parent {node.parent}, which stands nowhere")
        if node.parent is not None:
            nodes[node.parent].children.append(node.id)
    for number, values in commits:
        if values["chosen"] not in nodes:
            raise _malformed(path, number, f"the chosen node {values['chosen']} stands nowhere")
    return Tree(
        prompt_id=header["prompt"],
        seed=header["seed"],
        settings=header["settings"],
        nodes=nodes,
        commits=[values for _, values in commits],
        answer=answer,
    )


def _values(path: Path, number: int, line: bytes, expected: Mapping[str, Any]) -> dict[str, Any]:
    try:
        values = parse_json(line)
    except ValueError as error:
        raise _malformed(path, number, f"it is not JSON ({error})") from error
    if not isinstance(values, dict) or values.keys() != expected.keys():
        raise _malformed(path, number, f"expected an object with {', '.join(expected)}")
    for key, kind in expected.items():
        if not isinstance(values[key], kind):
            raise _malformed(path, number, f"{key} is {values[key]!r}")
    return values


def _node(path: Path, number: int, row: Any) -> TreeNode:
    if not isinstance(row, list) or len(row) != len(COLUMNS):
        raise _malformed(path, number, f"a node needs {', '.join(COLUMNS)}; it is {row!r}")
    values = dict(zip(COLUMNS, row, strict=True))
    for name, kinds in TYPES.items():
        if type(values[name]) not in kinds:
            raise _malformed(path, number, f"{name} of node {row[0]!r} is {values[name]!r}")
    if not all(type(token) is int for token in values["token_ids"]):
        raise _malformed(path, number, f"token_ids of node {row[0]!r} is {values['token_ids']!r}")
    return TreeNode(**values | {"token_ids": tuple(values["token_ids"])})


def _malformed(path: Path, number: int, what: str) -> RunError:
    return RunError(f"{path}:{number}: {what}. Remove the file, or make it again with `generate --trees`.")
