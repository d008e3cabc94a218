"""The tree in a file is the tree of the search: every node once, with its final numbers."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from inferalign.core.errors import RunError
from inferalign.core.types import Completion, Prompt, Score, StopReason, Unscored
from inferalign.procedures.rain_search import Search
from inferalign.procedures.rain_settings import DEFAULT, PAPER, RainSettings
from inferalign.procedures.rain_trace import Tree, TreeNode, TreeWriter, read_tree, tree_path
from inferalign.procedures.rain_tree import Node, Proposal, attach, backup, make_root
from inferalign.scorers.scripted import Verdict
from tests.procedures.searches import dislikes_a, rain, run, zero
from tests.toy import CharChat, a_prompt


def fails_on_b(prompt: Prompt, response: Completion) -> Verdict:
    return Unscored("no verdict", blame="judge") if "b" in response.text else Score(-0.5)


class Kept:
    """A live node, and its children of whatever time."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.children: list[Kept] = []


def keep(kept: Kept) -> None:
    """Take up what has grown below; a child that left the tree since is no longer one."""
    known = {child.node: child for child in kept.children}
    kept.children = [known.get(child) or Kept(child) for child in kept.node.children]
    for child in kept.children:
        keep(child)


async def watched(search: Search) -> Kept:
    """Run a search, keeping what its commits let go."""
    first = at = Kept(search.root)
    while search.finished() is StopReason.PARTIAL:
        iterations = await search.deliberate()
        keep(at)
        search.commit(iterations)
        at = next(child for child in at.children if child.node is search.root)
    keep(at)
    return first


def assert_same(kept: Kept, tree: Tree, number: int) -> int:
    """Returns the number of nodes."""
    node, written = kept.node, tree.nodes[number]
    assert (written.token_ids, written.ended, written.dropped) == (node.token_ids, node.ended, False)
    assert (written.visits, written.own_visits, written.value) == (node.visits, node.own_visits, node.value)
    assert written.prior == node.prior
    assert written.text == CharChat().decode(node.token_ids)
    children = [child for child in written.children if not tree.nodes[child].dropped]
    return 1 + sum(assert_same(a, tree, b) for a, b in zip(kept.children, children, strict=True))


@pytest.mark.parametrize("settings", [DEFAULT, PAPER], ids=["default", "paper"])
@pytest.mark.parametrize(("judge", "widen"), [(dislikes_a, False), (fails_on_b, True)])
def test_the_tree_in_the_file_is_the_tree_that_was_searched(
    settings: RainSettings, judge: Any, widen: bool, tmp_path: Path
) -> None:
    settings = replace(settings, candidates=3, widen_variance=10.0) if widen else settings
    procedure = rain(judge, settings, trees=tmp_path)
    search = Search(procedure, a_prompt())

    async def both() -> Kept:
        kept = await watched(search)
        await procedure._result(search)
        return kept

    kept = asyncio.run(both())
    tree = read_tree(tree_path(tmp_path, "p1"))
    size = assert_same(kept, tree, 0)
    dropped = [node for node in tree.nodes.values() if node.dropped]
    assert len(tree.nodes) == size + len(dropped)
    assert bool(dropped) is (judge is fails_on_b)
    assert all("b" in node.text or node.own_visits == 0 for node in dropped)
    assert [commit["iterations"] for commit in tree.commits] == [c["iterations"] for c in search.trace()["commits"]]
    assert "".join(tree.nodes[commit["chosen"]].text for commit in tree.commits).startswith(search.answer().text)


def test_a_tree_by_hand(tmp_path: Path) -> None:
    """Two commits of a tree of five nodes: what leaves with each, and the numbers at the time."""
    settings = replace(DEFAULT, root_uniform=0.0)
    writer = TreeWriter(tmp_path, "a/b", 7, settings, lambda ids: "".join(map(str, ids)))
    root = Node(())
    attach(root, [Proposal((1,), 0.6), Proposal((2,), 0.2), Proposal((3,), 0.2)], settings)
    _, second, third = root.children
    backup(second, 1.0, [None], settings)
    writer.drop(third)
    root.children.remove(third)
    writer.commit(root, second, 5)
    root = make_root(root, second, settings)
    attach(root, [Proposal((4, 5), 1.0)], settings)
    backup(root.children[0], -1.0, [None], settings)
    writer.commit(root, root.children[0], 2)
    root = make_root(root, root.children[0], settings)
    answer = Completion(token_ids=(2, 4, 5), text="245", stop=StopReason.LENGTH)
    writer.end(root, answer, Score(0.25), "tokens")

    tree = read_tree(tree_path(tmp_path, "a/b"))
    assert (tree.prompt_id, tree.seed, tree.settings["root_uniform"]) == ("a/b", 7, 0.0)
    assert {i: (node.parent, node.text, node.own_visits, node.value) for i, node in tree.nodes.items()} == {
        0: (None, "", 1, 1.0),
        1: (0, "1", 0, 0.0),
        2: (0, "2", 2, 0.0),
        3: (0, "3", 0, 0.0),
        4: (2, "45", 1, -1.0),
    }
    assert {i for i, node in tree.nodes.items() if node.dropped} == {3}
    assert [node.children for _, node in sorted(tree.nodes.items())] == [[1, 2, 3], [], [4], [], []]
    assert tree.commits == [
        {"chosen": 2, "iterations": 5, "visits": 1.0, "value": 1.0},
        {"chosen": 4, "iterations": 2, "visits": 1.0, "value": -1.0},
    ]
    assert tree.answer == {
        "answer": "245",
        "token_ids": [2, 4, 5],
        "stop": "length",
        "score": {"value": 0.25},
        "ran_out": "tokens",
    }
    assert tree.nodes[1] == TreeNode(
        id=1,
        parent=0,
        token_ids=(1,),
        text="1",
        ended=False,
        dropped=False,
        prior=pytest.approx(0.6),
        visits=0.0,
        own_visits=0,
        value=0.0,
    )
    assert [len(line["nodes"]) for line in lines(tree_path(tmp_path, "a/b"))[1:]] == [3, 1, 1]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_tree_changes_no_answer_and_is_written_anew(tmp_path: Path) -> None:
    plain, traced = run(rain(dislikes_a)), run(rain(dislikes_a, trees=tmp_path))
    assert traced.response == plain.response
    assert traced.trace == plain.trace
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()
    path.write_text("torn")
    run(rain(dislikes_a, trees=tmp_path))
    assert path.read_bytes() == before
    assert read_tree(path).answer["answer"] == plain.response.text


def test_a_budget_that_ran_out_is_in_the_tree(tmp_path: Path) -> None:
    result = run(rain(zero, replace(DEFAULT, budget_iterations=20), end=-9.0, trees=tmp_path))
    tree = read_tree(tree_path(tmp_path, "p1"))
    assert tree.answer["ran_out"] == "iterations"
    assert len(tree.commits) == len(result.trace["commits"])
    assert sum(node.own_visits for node in tree.nodes.values() if node.parent == 0) == 19, (
        "every iteration but the first, which had only the root"
    )


def test_what_stood_in_the_tree_at_its_end_stands_in_the_file(tmp_path: Path) -> None:
    """A guide that judges nothing, and a budget that ends: candidates that were not tried are left."""
    away = Unscored("away", blame="judge")
    run(rain(lambda prompt, response: away, replace(DEFAULT, budget_iterations=3), end=-9.0, trees=tmp_path))
    tree = read_tree(tree_path(tmp_path, "p1"))
    below = [node for node in tree.nodes.values() if node.parent == 0]
    assert sum(node.dropped for node in below) == 2, "all iterations but the first, which had only the root"
    assert sum(not node.dropped for node in below) >= 2


def test_a_search_that_was_stopped_leaves_no_file(tmp_path: Path) -> None:
    procedure = rain(zero, end=-9.0, trees=tmp_path)

    async def first() -> None:
        stream = procedure.stream(a_prompt())
        await anext(stream)
        await stream.aclose()

    asyncio.run(first())
    assert list(tmp_path.iterdir()) == []


def damaged(how: str, rows: list[dict[str, Any]]) -> None:
    match how:
        case "schema":
            rows[0]["schema"] = 2
        case "columns":
            rows[0]["columns"] = ["id"]
        case "key":
            rows[1]["extra"] = 1
        case "type":
            rows[1]["chosen"] = "4"
        case "short node":
            rows[1]["nodes"][0] = [0]
        case "node type":
            rows[1]["nodes"][0][4] = 0
        case "tokens":
            rows[1]["nodes"][0][2] = ["a"]
        case "twice":
            rows[2]["nodes"].append(rows[1]["nodes"][0])
        case "orphan":
            rows[2]["nodes"][0][1] = 10**6
        case "chosen":
            rows[1]["chosen"] = 10**6
        case "unfinished":
            rows.pop()


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("schema", 1),
        ("columns", 1),
        ("key", 2),
        ("type", 2),
        ("short node", 2),
        ("node type", 2),
        ("tokens", 2),
        ("twice", 3),
        ("orphan", 3),
        ("chosen", 2),
    ],
)
def test_a_damaged_line_is_refused_by_its_number(how: str, line: int, tmp_path: Path) -> None:
    run(rain(zero, end=-9.0, trees=tmp_path))
    path = tree_path(tmp_path, "p1")
    rows = lines(path)
    damaged(how, rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RunError, match=rf"\.jsonl:{line}: .*generate --trees"):
        read_tree(path)


def test_a_torn_or_unfinished_file_is_refused(tmp_path: Path) -> None:
    run(rain(zero, end=-9.0, trees=tmp_path))
    path = tree_path(tmp_path, "p1")
    whole = path.read_bytes()
    count = len(whole.splitlines())
    path.write_bytes(whole[:-40])
    with pytest.raises(RunError, match=rf":{count}: it is not JSON"):
        read_tree(path)
    path.write_bytes(b"".join(line + b"\n" for line in whole.splitlines()[:-1]))
    with pytest.raises(RunError, match=rf":{count - 1}: expected an object with answer"):
        read_tree(path)
    path.write_bytes(b"")
    with pytest.raises(RunError, match="0 lines"):
        read_tree(path)


def test_the_header_says_how_it_was_searched(tmp_path: Path) -> None:
    procedure = rain(zero, trees=tmp_path, seed=4)
    run(procedure)
    tree = read_tree(tree_path(tmp_path, "p1"))
    assert tree.seed == 4
    assert tree.settings == json.loads(json.dumps(asdict(procedure.settings)))
