from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferalign.core.errors import InputError
from inferalign.core.prompts import read_prompts, write_prompts
from inferalign.core.types import Message, Prompt


def lines(tmp_path: Path, *text: str) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(text) + "\n")
    return path


def test_both_forms_with_meta_and_whole_number_ids(tmp_path: Path) -> None:
    path = lines(
        tmp_path,
        '{"id": "a", "prompt": "Hello", "topic": "x", "n": [1]}',
        "",
        '{"id": 7, "messages": [{"role": "system", "content": "Short."}, {"role": "user", "content": "Hi"}]}',
    )
    assert read_prompts(path) == [
        Prompt(id="a", messages=(Message(role="user", content="Hello"),), meta={"topic": "x", "n": [1]}),
        Prompt(id="7", messages=(Message(role="system", content="Short."), Message(role="user", content="Hi"))),
    ]


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": "a", "prompt": "x"}\r\n{"id": "b", "prompt": "y"}\r\n')
    assert [p.id for p in read_prompts(path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r'not a JSON object: Expecting .* at column 2\. Expected a line like {"id": "p1", "prompt": "\.\.\."}'),
        ("[1]", "expected a JSON object, got a list"),
        ('{"prompt": "x"}', 'no "id"'),
        ('{"id": true, "prompt": "x"}', '"id" must be a text or a whole number, got the truth value True'),
        ('{"id": 1.5, "prompt": "x"}', "got the number 1.5"),
        ('{"id": " ", "prompt": "x"}', '"id" is empty'),
        ('{"id": "a", "promt": "x"}', "either \"prompt\" or \"messages\", got neither, only 'id', 'promt'"),
        ('{"id": "a", "prompt": "x", "messages": []}', "got both"),
        ('{"id": "a", "prompt": ""}', '"prompt" is empty'),
        ('{"id": "a", "prompt": " \\n"}', '"prompt" is empty'),
        ('{"id": "a", "prompt": 3}', '"prompt" must be a text, got the number 3'),
        ('{"id": "a", "prompt": null}', "got null"),
        ('{"id": "a", "prompt": "\\ud800"}', "half of a surrogate pair"),
        ('{"id": "a", "prompt": "x", "score": NaN}', "NaN is not JSON"),
        ('{"id": "a", "id": "b", "prompt": "x"}', "key 'id' stands twice"),
        ('{"id": "a", "messages": []}', "got an empty list"),
        ('{"id": "a", "messages": "x"}', "got the text 'x'"),
        ('{"id": "a", "messages": ["x"]}', r'"messages"\[0\] must be a'),
        ('{"id": "a", "messages": [{"role": "user"}]}', r"exactly the keys .* got \['role'\]"),
        ('{"id": "a", "messages": [{"role": "bot", "content": "x"}]}', "role 'bot' is none of system, user, assistant"),
        ('{"id": "a", "messages": [{"role": "user", "content": ""}]}', r'"messages"\[0\] "content" is empty'),
        ('{"id": "a", "messages": [{"role": "assistant", "content": "x"}]}', "must be from \"user\", got 'assistant'"),
    ],
)
def test_malformed_line_17_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = lines(tmp_path, *[f'{{"id": {i}, "prompt": "x"}}' for i in range(100, 116)], line)
    with pytest.raises(InputError, match=message) as caught:
        read_prompts(path)
    assert "prompts.jsonl:17" in str(caught.value)


def test_duplicate_id_names_both_lines(tmp_path: Path) -> None:
    path = lines(tmp_path, '{"id": "1", "prompt": "x"}', "", '{"id": 1, "prompt": "y"}')
    with pytest.raises(InputError, match=r"jsonl:3: id '1' already stands on line 1"):
        read_prompts(path)


def test_missing_empty_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file .*gone\.jsonl"):
        read_prompts(tmp_path / "gone.jsonl")
    with pytest.raises(InputError, match="is a directory"):
        read_prompts(tmp_path)
    with pytest.raises(InputError, match="holds no prompts"):
        read_prompts(lines(tmp_path, "", " "))
    with pytest.raises(InputError, match="cannot read"):
        read_prompts(lines(tmp_path, "") / "x")


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
PROMPTS = st.builds(
    lambda identity, turns, last, meta: Prompt(
        id=identity, messages=(*turns, Message(role="user", content=last)), meta=meta
    ),
    TEXTS,
    st.lists(st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=TEXTS), max_size=2),
    TEXTS,
    st.dictionaries(TEXTS.filter(lambda k: k not in ("id", "prompt", "messages")), st.integers() | TEXTS, max_size=2),
)


@given(st.lists(PROMPTS, min_size=1, max_size=3, unique_by=lambda p: p.id))
def test_written_prompts_read_back(tmp_path_factory: pytest.TempPathFactory, prompts: list[Prompt]) -> None:
    path = tmp_path_factory.mktemp("prompts") / "p.jsonl"
    write_prompts(path, prompts)
    assert read_prompts(path) == prompts


def test_meta_that_would_be_lost_is_refused(tmp_path: Path) -> None:
    prompt = Prompt(id="a", messages=(Message(role="user", content="x"),), meta={"prompt": "y"})
    with pytest.raises(InputError, match="meta key 'prompt' is taken"):
        write_prompts(tmp_path / "p.jsonl", [prompt])
