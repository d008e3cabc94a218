"""Decision files: what they say is what is asked, and a fault is named with its file, entry and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferalign.core.errors import InputError
from inferalign.engines.table import ModelOptions, load
from inferalign.scorers.decision_files import read_decisions
from inferalign.scorers.decisions import Choice, DecisionJudge, DecisionSet, Scale, YesNo
from inferalign.scorers.questions import Phrasing

SHIPPED = Path(__file__).parents[2] / "src/inferalign/scorers/prompts/decisions"
FILE = """
name = "mine"
conversation = "chat"
preamble = ""
[[decisions]]
name = "decides"
kind = "yes-no"
good = "no"
[[decisions.phrasings]]
text = "|yn("
labels = { no = "B", yes = "A" }
[[decisions]]
name = "move"
kind = "choice"
options = ["asks", "tells"]
[[decisions.phrasings]]
text = "|at("
labels = { asks = "A", tells = "B" }
[[decisions.phrasings]]
text = "|ta("
labels = { asks = "B", tells = "A" }
[[decisions]]
name = "help"
kind = "scale"
levels = [-1, 0, 1]
[[decisions.phrasings]]
text = "|how("
labels = { -1 = "a", 0 = "b", 1 = "c" }
"""


def test_a_file_says_what_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(FILE)
    assert read_decisions(path) == DecisionSet(
        name="mine",
        conversation="chat",
        preamble="",
        decisions=(
            YesNo(name="decides", good="no", phrasings=(Phrasing(text="|yn(", labels=("A", "B")),)),
            Choice(
                name="move",
                options=("asks", "tells"),
                phrasings=(Phrasing(text="|at(", labels=("A", "B")), Phrasing(text="|ta(", labels=("B", "A"))),
            ),
            Scale(name="help", levels=(-1, 0, 1), phrasings=(Phrasing(text="|how(", labels=("a", "b", "c")),)),
        ),
    )


def test_a_comment_changes_nothing_and_a_word_does(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    seen = []
    for text in (FILE, "# a comment\n" + FILE, FILE.replace("|how(", "|How(")):
        path.write_text(text)
        seen.append(read_decisions(path).sha256)
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("model", ["llama_dir", "gpt2_dir", "qwen_dir"])
def test_shipped_files_are_read_and_can_be_asked(path: Path, model: str, request: pytest.FixtureRequest) -> None:
    asked = read_decisions(path)
    assert asked.name == path.stem
    loaded = load(str(request.getfixturevalue(model)), ModelOptions(device="cpu"))
    DecisionJudge(loaded.engine, loaded.chat, asked)
    for decision in asked.decisions:
        # No option keeps its letter in all phrasings, the middle one of an odd number excepted.
        letters = list(zip(*(phrasing.labels for phrasing in decision.phrasings), strict=True))
        assert sum(len(set(of_option)) == 1 for of_option in letters) <= len(letters) % 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('name = "mine"', ""), "key 'name' is missing"),
        (('conversation = "chat"', 'conversation = "talk"'), "'transcript' or 'chat'"),
        (('preamble = ""', 'preamble = "J"'), "empty the preamble"),
        (("[[decisions]]", "[[decision]]"), "key 'decisions' is missing or is not a list"),
        (('kind = "yes-no"', 'kind = "yesno"'), r"kind of decisions\[0\] 'yesno'. Did you mean 'yes-no'"),
        (('kind = "yes-no"', ""), r"decisions\[0\]: key 'kind' is missing"),
        (('good = "no"', 'good = "noo"'), "good option of decision 'decides' 'noo'. Did you mean 'no'"),
        (('good = "no"', 'godo = "no"'), r"decisions\[0\]: unknown key 'godo'. Did you mean 'good'"),
        (('good = "no"', "good = 1"), r"decisions\[0\]: key 'good' is 1; it must be a str"),
        (('name = "move"', "name = 3"), r"decisions\[1\]: key 'name' is 3; it must be a str"),
        (('name = "move"', 'name = "help"'), "each under its own name"),
        (('options = ["asks", "tells"]', 'options = "asks"'), r"decisions\[1\]: key 'options' is 'asks'"),
        (('options = ["asks", "tells"]', ""), r"decisions\[1\]: key 'options' is missing"),
        (('options = ["asks", "tells"]', "options = [1, 2]"), r"key 'options' is \[1, 2\]; it must be a list of str"),
        (('options = ["asks", "tells"]', 'options = ["asks"]'), r"phrasings\[0\].labels: unknown key 'tells'"),
        (("levels = [-1, 0, 1]", "levels = [true, 0, 1]"), "'levels' is .* a list of int"),
        (("levels = [-1, 0, 1]", "levels = [1, 0, -1]"), "decision 'help' has the levels .* lowest first"),
        (('kind = "scale"', 'kind = "scale"\ngood = "1"'), r"decisions\[2\]: unknown key 'good'"),
        (('labels = { asks = "B", tells = "A" }', 'labels = ["B", "A"]'), r"decisions\[1\].phrasings\[1\]: .*'labels'"),
        (('asks = "B", tells', 'aks = "B", tells'), r"decisions\[1\].phrasings\[1\].labels: key 'asks' is missing"),
        (('text = "|how("', ""), r"decisions\[2\].phrasings\[0\]: key 'text' is missing"),
        (('preamble = ""', 'preamble = ""\nafter = 1'), "unknown key 'after'"),
        (("[[decisions.phrasings]]", "[[decisions.phrasings"), "is not a TOML file"),
    ],
)
def test_a_fault_is_named_with_its_file_and_key(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    path = tmp_path / "mine.toml"
    # [[decision]] in the place of all, so that no list of that name is left.
    path.write_text(FILE.replace(*change) if "[[decision]]" in change else FILE.replace(*change, 1))
    assert path.read_text() != FILE
    with pytest.raises(InputError, match=says) as caught:
        read_decisions(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("decisions", "says"),
    [
        ("[]", "give one or more"),
        ("[1]", r"decisions\[0\] is 1; it must be a table"),
        ('[{ name = "x", kind = "yes-no", phrasings = [] }]', "no phrasing"),
        ('[{ name = "x", kind = "yes-no", phrasings = ["a"] }]', r"decisions\[0\].phrasings\[0\] is 'a'"),
    ],
)
def test_lists_that_hold_nothing_to_ask_are_refused(tmp_path: Path, decisions: str, says: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'name = "x"\nconversation = "chat"\npreamble = ""\ndecisions = {decisions}\n')
    with pytest.raises(InputError, match=says):
        read_decisions(path)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the decision file"):
        read_decisions(tmp_path / "none.toml")
