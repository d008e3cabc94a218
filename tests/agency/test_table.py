from pathlib import Path

import numpy as np
import pytest

from inferalign.agency.analysis import summarise
from inferalign.agency.records import Item, Reply, Verdict
from inferalign.agency.stored import (
    ITEMS,
    REPLIES,
    VERDICTS,
    kind_of,
    read_run,
    to_item,
    to_record,
    to_reply,
    to_verdict,
)
from inferalign.agency.table import Arm, Counts, Table
from inferalign.agency.table_build import build_table, read_table
from inferalign.core.errors import RunError, ScoringError
from inferalign.core.files import dump_json, parse_json
from inferalign.core.records import RunFolder
from tests.agency.tables import ACQ, DID, item, reply, verdict

Parts = tuple[list[Item], list[Reply], list[Verdict]]


def run() -> Parts:
    """Two dimensions; subject a answers twice, b once; one verdict failed by the judge, one by the reply's fault."""
    items = [item("d1", DID, "cars"), item("d2", DID, "cars"), item("d3", DID), item("q1", ACQ, "cars")]
    replies = [reply(name, "a", repeat) for name in ("d1", "d2", "d3") for repeat in (0, 1)]
    replies = [each for each in replies if each.id != "d3/a/default/1"]  # the subject's server gave up
    replies += [reply(name, "b", words=3) for name in ("d1", "d2", "q1")]
    verdicts = []
    for each in replies:
        if each.id == "d2/a/default/1":
            verdicts += [verdict(each, None), verdict(each, None, repeat=1)]
        elif each.id == "d3/a/default/0":
            verdicts += [verdict(each, None, blame="response")]
        elif each.id != "d2/b/default/0":  # not judged
            verdicts += [verdict(each, 4.0, letters="AB"), verdict(each, 8.0, repeat=1, letters="C")]
    verdicts.append(verdict(replies[0], 0.0, "other"))
    return items, replies, verdicts


def test_records_come_back_as_they_were() -> None:
    items, replies, verdicts = run()
    full = verdict(replies[0], 2.0, letters="AB", order="BA", repeat=4)
    for made, back in (
        *((each, to_item) for each in items),
        *((each, to_reply) for each in replies),
        *((each, to_verdict) for each in [*verdicts, full]),
    ):
        assert back(parse_json(dump_json(to_record(made)))) == made


def test_a_record_of_another_version_is_named() -> None:
    record = to_record(item("d1"))
    with pytest.raises(RunError, match=r"unknown key 'promt'. Did you mean 'prompt'\?"):
        to_item(record | {"promt": "x"})
    with pytest.raises(RunError, match="no 'dimension'"):
        to_item({key: value for key, value in record.items() if key != "dimension"})


def written(path: Path) -> Path:
    items, replies, verdicts = run()
    folders = {ITEMS: items, REPLIES: replies, f"{VERDICTS}-j": verdicts[:-1], f"{VERDICTS}-other": verdicts[-1:]}
    for name, made in folders.items():
        with RunFolder.open(path / name, {}, {}, kind=kind_of(name.partition("-")[0])) as folder:
            for each in made:
                folder.append(to_record(each))
    return path


def test_a_run_folder_gives_the_table(tmp_path: Path) -> None:
    stored, built = read_table(written(tmp_path)), build_table(*run())
    for name in Table.__annotations__:
        np.testing.assert_equal(getattr(stored, name), getattr(built, name))


def test_a_run_without_verdicts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no verdicts"):
        read_run(tmp_path)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    written(tmp_path)
    with RunFolder.open(tmp_path / ITEMS, {}, {}, kind=kind_of(ITEMS)) as folder:
        folder.append({"id": "odd", "dimension": DID})
    with pytest.raises(RunError, match="record 'odd': no 'prompt'"):
        read_table(tmp_path)


def test_columns() -> None:
    table = build_table(*run())
    assert table.dimensions == [DID, ACQ]
    assert table.judges == ["j", "other"]
    assert table.arms == [Arm("a", "default"), Arm("b", "default")]
    # One cluster name in two dimensions is two clusters; no name is a cluster of its own.
    assert table.item_cluster.tolist() == [0, 0, 1, 2]
    assert set(table.reply_words.tolist()) == {10, 3}


def test_scores_of_replies_and_letters() -> None:
    table = build_table(*run())
    scores = dict(zip(table.reply_id.tolist(), table.reply_scores("j").tolist(), strict=True))
    assert scores["d1/a/default/0"] == 6.0  # of 4 and 8
    assert np.isnan([scores["d2/a/default/1"], scores["d3/a/default/0"], scores["d2/b/default/0"]]).all()
    named = dict(zip(table.reply_id.tolist(), table.reply_letter("j", "B").tolist(), strict=True))
    assert named["d1/a/default/0"] == 1.0  # by the first verdict
    assert np.isnan(named["d2/a/default/1"])
    assert set(table.reply_letter("j", "C")[~np.isnan(table.reply_scores("j"))]) == {0.0}


def test_item_scores_count_what_is_missing_and_bound_it() -> None:
    scores = build_table(*run()).item_scores(Arm("a", "default"), DID, "j")
    assert scores.items.tolist() == ["d1", "d2", "d3"]
    np.testing.assert_equal(scores.mean, [6.0, 6.0, np.nan])
    assert scores.low.tolist() == [6.0, 3.0, 0.0]
    assert scores.high.tolist() == [6.0, 8.0, 10.0]
    assert scores.counts == Counts(due=6, scored=3, no_reply=1, blamed_reply=1, blamed_judge=1)
    assert scores.counts.unscored == 3
    other = build_table(*run()).item_scores(Arm("b", "default"), DID, "j")
    assert other.counts == Counts(due=3, scored=1, no_reply=1, not_judged=1)


def test_counts_add_up_to_what_was_due() -> None:
    table = build_table(*run())
    total = Counts()
    for arm in table.arms:
        for dimension in table.dimensions:
            total += table.item_scores(arm, dimension, "j").counts if table.has_arm(arm, dimension) else Counts()
    parts = total.scored + total.no_reply + total.not_judged + total.blamed_reply + total.blamed_judge
    assert parts == total.due == 10


def test_the_order_of_records_does_not_matter() -> None:
    items, replies, verdicts = run()
    one, other = build_table(items, replies, verdicts), build_table(items, replies[::-1], verdicts[::-1])
    for name in Table.__annotations__:
        np.testing.assert_equal(getattr(one, name), getattr(other, name))


def test_records_that_do_not_fit_together_are_named() -> None:
    items, replies, verdicts = run()
    with pytest.raises(RunError, match="'d1/a/default/0' belongs to the item 'd1', which is not recorded"):
        build_table(items[1:], replies, verdicts)
    with pytest.raises(RunError, match="belongs to the reply"):
        build_table(items, replies[1:], verdicts)
    with pytest.raises(RunError, match="item 'd1' is recorded twice"):
        build_table([*items, items[0]], replies, verdicts)


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    table = build_table(*run())
    with pytest.raises(ScoringError, match="There are: j, other"):
        table.reply_scores("judge")
    with pytest.raises(ScoringError, match=r"Did you mean 'a \(default\)'"):
        table.of_arm(Arm("a", "defalt"))


def test_a_reply_is_due_for_the_items_that_the_arm_was_asked() -> None:
    """Of three items a was asked two, of which one has no reply; b was asked them all."""
    items = [item(f"i{n}") for n in range(3)]
    replies = [reply("i0", "a"), reply("i0", "b"), reply("i2", "b")]
    verdicts = [verdict(each, 4.0) for each in replies]
    table = build_table(items, replies, verdicts, due={Arm("a", "default"): {"i1"}})  # i0 has a reply
    a, b = (table.item_scores(Arm(name, "default"), DID, "j") for name in "ab")
    assert a.due.tolist() == [True, True, False]
    assert (a.counts.due, a.counts.no_reply, b.counts.due, b.counts.no_reply) == (2, 1, 3, 1)
    mean = next(each for each in summarise(table, "j") if each.arm.subject == "a")
    assert mean.bounds == ((4 + 0) / 2, (4 + 10) / 2)
