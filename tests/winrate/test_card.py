"""Cards of checkpoints: in and out, completed, shown as text, refused when damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from inferalign.core.errors import InputError, RunError, UnknownName
from inferalign.core.stats import Estimate
from inferalign.winrate.card import Card, MeasuredWinRate, escape, model_card, read_card, with_measurements, write_card

CARD = Card(
    trained_for="best-of-n:4",
    transform="exp:10",
    beta=0.318,
    anchors=128,
    anchors_digest="sha256:12ab",
    base="sandbox",
    base_weights="sha256:34cd",
    reward="reward",
    sandbox=True,
    seed=7,
    kl=Estimate(mean=0.49, low=0.47, high=0.51, n=300),
)
ROW = MeasuredWinRate(
    procedure="best-of-n:4",
    selector="reward",
    judge="oracle",
    win_rate=Estimate(mean=0.8, low=0.78, high=0.82, n=300),
    kl=Estimate(mean=0.5, low=None, high=None, n=1),
    ceiling=0.85,
)


def test_a_card_reads_back(tmp_path: Path) -> None:
    assert read_card(tmp_path) is None
    for card in (CARD, with_measurements(CARD, (ROW,)), replace(CARD, anchors=None, anchors_digest=None)):
        write_card(tmp_path, card)
        assert read_card(tmp_path) == card
    assert json.loads((tmp_path / "inferalign.json").read_text())["t"] == 10


def test_the_strength_of_a_transform() -> None:
    found = [replace(CARD, transform=text).strength for text in ("exp:10", "exp:-5", "identity", "raw", "power:7")]
    assert found == [10, -5, None, None, None]


def test_new_measurements_replace_those_of_the_same_contest() -> None:
    worst = replace(ROW, procedure="worst-of-n:4")
    again = replace(ROW, win_rate=Estimate(mean=0.7, low=0.6, high=0.8, n=300))
    assert with_measurements(with_measurements(CARD, (ROW, worst)), (again,)).measured == (worst, again)


def test_the_model_card_says_what_it_is_for_and_what_it_is_worth() -> None:
    text = model_card(with_measurements(CARD, (ROW,)), "ctrl")
    assert "to be decoded by **best-of-n:4**" in text
    assert "these numbers say nothing of other models" in text
    assert "| best-of-n:4 | reward | oracle | 80.0 [78.0, 82.0] | 0.500 | 85.0 | 300 |" in text
    assert "0.490 [0.470, 0.510]" in text
    assert "128 reference rollouts a prompt" in text
    assert "`inferalign compare` with `--cards`" in model_card(CARD, "ctrl")
    assert "sandbox" not in model_card(replace(CARD, sandbox=False, base="own/model"), "ctrl")


def test_text_of_others_is_shown_and_never_rendered() -> None:
    evil = replace(CARD, base="a: 1\n---\n# hi", reward="<script>x</script> [a](b) `c` | d")
    text = model_card(evil, "*x*|\n# y")
    front = text.split("---\n")[1]
    assert front.splitlines()[1] == r'base_model: "a: 1\n---\n# hi"'
    assert "<script>" not in text
    assert r"\[a\](b) \`c\` \| d" in text
    assert r"# \*x\*\| \# y" in text
    assert escape("plain text, 3.5") == "plain text, 3.5"
    assert escape("https://x.y www.x.y a@x.y") == "https&#58;//x.y www&#46;x.y a&#64;x.y"


def test_what_is_no_card(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="best-of-n:4"):
        replace(CARD, trained_for="best-of")
    with pytest.raises(InputError, match="beta 0"):
        replace(CARD, beta=0.0)
    write_card(tmp_path, CARD)
    path = tmp_path / "inferalign.json"
    whole = json.loads(path.read_text())
    for damaged, said in (
        ({**whole, "schema": 9}, "no card of schema 1"),
        ({**whole, "colour": 1}, "damaged.*colour"),
        ({key: value for key, value in whole.items() if key != "beta"}, "damaged.*beta"),
        ([], "no card"),
    ):
        path.write_text(json.dumps(damaged))
        with pytest.raises(RunError, match=said):
            read_card(tmp_path)
