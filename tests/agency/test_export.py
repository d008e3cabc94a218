"""The exported files hold the same items and points; the script adds them up as we do."""

from __future__ import annotations

import json
import shutil
import subprocess
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from inferalign.agency.conditions import parse_conditions
from inferalign.agency.export import write_lm_eval, write_promptfoo
from inferalign.agency.records import Item
from inferalign.core.errors import InputError
from tests.agency.judging import bank, shipped


def written(tmp_path: Path, name: str, condition: str = "default") -> tuple[dict, dict]:
    dimension = shipped()[name]
    (asked,) = parse_conditions([condition], {name: dimension})
    write_promptfoo(tmp_path / "p", dimension, bank(name), asked)
    write_lm_eval(tmp_path / "l", dimension, bank(name), asked)
    return (
        yaml.safe_load((tmp_path / "p" / "promptfooconfig.yaml").read_text()),
        yaml.safe_load((tmp_path / "l" / f"human_agency_{name}.yaml").read_text()),
    )


@pytest.mark.parametrize("name", sorted(shipped()))
def test_both_hold_every_item_and_issue(tmp_path: Path, name: str) -> None:
    promptfoo, lm_eval = written(tmp_path, name)
    items = bank(name)
    assert [test["metadata"]["item"] for test in promptfoo["tests"]] == [item.id for item in items]
    assert [test["vars"]["prompt"] for test in promptfoo["tests"]] == [item.prompt for item in items]
    assert [one["metric"] for one in promptfoo["defaultTest"]["assert"]] == list(shipped()[name].letters)
    rows = [json.loads(line) for line in (tmp_path / "l" / f"human_agency_{name}.jsonl").read_text().splitlines()]
    assert [(row["id"], row["prompt"]) for row in rows] == [(item.id, item.prompt) for item in items]
    assert len({tuple(row) for row in rows}) == 1
    assert lm_eval["dataset_kwargs"]["data_files"]["test"] == f"human_agency_{name}.jsonl"
    rubric = shipped()[name].rubric
    assert lm_eval["metadata"]["points"] == {letter: issue.points for letter, issue in rubric.issues.items()}
    judge = (tmp_path / "l" / f"human_agency_{name}_judge.txt").read_text()
    assert "{{prompt}}" in judge
    assert "{{output}}" in judge


def test_the_prompt_is_json_once_its_variable_is_filled(tmp_path: Path) -> None:
    promptfoo, _ = written(tmp_path, "encourage_learning")
    assert "\n" in promptfoo["prompts"][0]  # promptfoo takes a line with a slash in it for a path
    filled = promptfoo["prompts"][0].replace("{{ prompt | dump | safe }}", json.dumps('a "quoted" line\nand another'))
    assert json.loads(filled) == [
        {"role": "system", "content": "Answer in at most 150 words."},
        {"role": "user", "content": 'a "quoted" line\nand another'},
    ]


def test_the_false_sentence_is_for_the_judge_alone(tmp_path: Path) -> None:
    promptfoo, _ = written(tmp_path, "correct_misinformation")
    sentence = bank("correct_misinformation")[0].extra["misinformation"]
    assert sentence in promptfoo["tests"][0]["vars"]["context"]
    assert "context" not in promptfoo["prompts"][0]
    assert "context" in promptfoo["defaultTest"]["options"]["rubricPrompt"]


@pytest.mark.skipif(shutil.which("node") is None, reason="runs the exported script with node, which is not here")
@pytest.mark.parametrize("name", ["encourage_learning", "correct_misinformation"])
def test_the_script_scores_as_we_do(tmp_path: Path, name: str) -> None:
    written(tmp_path, name)
    letters = shipped()[name].letters
    subsets = [list(found) for size in range(len(letters) + 1) for found in combinations(letters, size)]
    given = [{letter: 0 if letter in found else 1 for letter in letters} for found in subsets]
    code = f"const s=require('./score.js');console.log(JSON.stringify({json.dumps(given)}.map(g=>s(g).score)))"
    done = subprocess.run(["node", "-e", code], cwd=tmp_path / "p", capture_output=True, text=True, check=True)
    rubric = shipped()[name].rubric
    assert json.loads(done.stdout) == pytest.approx([rubric.score(found) / 10 for found in subsets])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "What does {{ x }} print?"}, r"would fill '\{\{' in the text 'What does"),
        ({"prompt": "My key is {{ env.KEY }}"}, "as a template"),
        ({"prompt": "{% if x %}"}, "as a template"),
        ({"prompt": "file:///etc/passwd"}, "would read a file"),
        ({"prompt": "package:x:y"}, "would read a file"),
        ({"prompt": "p", "cluster": "{{ env.KEY }}"}, "as a template"),
    ],
)
def test_texts_that_promptfoo_would_act_on_are_refused(tmp_path: Path, fields: dict[str, str], message: str) -> None:
    dimension = shipped()["encourage_learning"]
    (asked,) = parse_conditions(["none"], {dimension.id: dimension})
    item = Item(id="t", dimension=dimension.id, **fields)
    with pytest.raises(InputError, match=message):
        write_promptfoo(tmp_path, dimension, [item], asked)
    assert not any(tmp_path.iterdir())
    write_lm_eval(tmp_path, dimension, [item], asked)


def test_the_judge_gives_one_verdict_and_no_number_beside_it(tmp_path: Path) -> None:
    promptfoo, _ = written(tmp_path, "encourage_learning")
    assert '"pass": false}' in promptfoo["defaultTest"]["options"]["rubricPrompt"]
    assert "score" not in promptfoo["defaultTest"]["options"]["rubricPrompt"]


def test_no_file_that_was_changed_is_written_over(tmp_path: Path) -> None:
    for _ in range(2):
        written(tmp_path, "encourage_learning")
    config = tmp_path / "p" / "promptfooconfig.yaml"
    config.write_text(config.read_text().replace("providers: []", "providers: [m]"))
    with pytest.raises(InputError, match="is there and says something else"):
        written(tmp_path, "encourage_learning")
    assert "providers: [m]" in config.read_text()


def test_dimensions_share_a_folder_of_lm_eval(tmp_path: Path) -> None:
    for name in ("encourage_learning", "correct_misinformation"):
        (asked,) = parse_conditions(["none"], shipped())
        write_lm_eval(tmp_path, shipped()[name], bank(name), asked)
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.skipif(shutil.which("bash") is None, reason="reads the command with bash, which is not here")
def test_a_system_prompt_stands_in_the_command_as_it_is(tmp_path: Path) -> None:
    dimension = shipped()["encourage_learning"]
    text = 'It\'s $HOME, `id` and \\n.\n\u2028task: other\n"Two" lines!'
    (tmp_path / "own.txt").write_text(text, encoding="utf-8")
    (asked,) = parse_conditions([str(tmp_path / "own.txt")], {dimension.id: dimension})
    write_lm_eval(tmp_path / "l", dimension, bank(dimension.id), asked)
    source = (tmp_path / "l" / "human_agency_encourage_learning.yaml").read_text()
    assert yaml.safe_load(source)["task"] == "human_agency_encourage_learning"
    (word,) = [line.split("--system_instruction ")[1] for line in source.split("\n") if "--system_instruction" in line]
    done = subprocess.run(
        ["bash", "-c", f"printf %s {word}"], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}
    )
    assert done.stdout.decode() == asked.system_prompt(dimension)


def test_follow_up_turns_and_no_items_are_refused(tmp_path: Path) -> None:
    dimension = shipped()["encourage_learning"]
    (pressed,) = parse_conditions(["default+followups"], {dimension.id: dimension})
    (plain,) = parse_conditions(["default"], {dimension.id: dimension})
    for write in (write_promptfoo, write_lm_eval):
        with pytest.raises(InputError, match="follow-up turns"):
            write(tmp_path, dimension, bank(dimension.id), pressed)
        with pytest.raises(InputError, match="no items"):
            write(tmp_path, dimension, [], plain)
