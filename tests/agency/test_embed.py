import asyncio
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from inferalign.agency import embed
from inferalign.agency.dimension import load_shipped
from inferalign.agency.embed import (
    Embedding,
    EndpointEmbedder,
    SentenceTransformersEmbedder,
    TfidfEmbedder,
    one_line,
    unit_rows,
)
from inferalign.agency.items import load_items
from inferalign.core.errors import EngineError, InputError, RunError, TransientError

TEXTS = ["A boiler leaks.", "The boiler\nleaks again.", "My passport expired.", "A violin lesson", "Harvest and ladder"]


def tfidf(texts: Sequence[str], seed: int = 0) -> Embedding:
    return asyncio.run(TfidfEmbedder(seed=seed).embed(texts))


def test_rows_of_length_1() -> None:
    assert unit_rows(np.array([[3.0, 4.0], [0.0, -2.0]])).tolist() == [[0.6, 0.8], [0.0, -1.0]]
    with pytest.raises(InputError, match="text 2 of 2 has an embedding of zeros"):
        unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]]))


def test_line_breaks_become_spaces() -> None:
    assert one_line(["a\nb\n\nc"]) == ["a b  c"]


def test_tfidf_cosines_equal_a_naive_computation() -> None:
    texts = ["boiler boiler ladder", "boiler violin", "violin kettle ladder ladder ladder"]
    words = sorted({word for text in texts for word in text.split()})
    rows = []
    for text in texts:
        row = []
        for word in words:
            tf, df = text.split().count(word), sum(word in other.split() for other in texts)
            row.append((1 + np.log(tf)) * (np.log((1 + len(texts)) / (1 + df)) + 1) if tf else 0.0)
        rows.append(np.array(row) / np.linalg.norm(row))
    expected = np.array([[a @ b for b in rows] for a in rows])
    found = tfidf(texts)
    assert found.cosines == pytest.approx(expected)
    # with as many directions as texts nothing is lost
    assert found.vectors @ found.vectors.T == pytest.approx(expected)


def test_tfidf_is_the_same_each_time() -> None:
    first, second = tfidf(TEXTS), tfidf(TEXTS)
    assert (first.vectors == second.vectors).all()
    assert (first.cosines == second.cosines).all()


def test_texts_without_words_are_refused() -> None:
    with pytest.raises(InputError, match="no words"):
        tfidf(["??", "!!"])
    with pytest.raises(InputError, match="text 2 of 3 has an embedding of zeros"):
        tfidf(["boiler", "??", "ladder"])
    with pytest.raises(InputError, match="at least 2"):
        tfidf(["boiler"])


def test_the_default_threshold_leaves_the_shipped_items_alone_and_finds_an_edited_copy() -> None:
    for dimension in load_shipped().values():
        texts = [item.prompt for item in load_items(dimension)]
        # a sixth of the words of the first item replaced by those of the second
        words, others = texts[0].split(), texts[1].split()
        cut = len(words) // 6
        copy = " ".join([*others[:cut], *words[cut:]])
        cosines = tfidf([*texts, copy]).cosines
        np.fill_diagonal(cosines, 0.0)
        assert cosines[-1].argmax() == 0
        assert cosines[-1, 0] > 0.6
        assert cosines[:-1, :-1].max() < 0.25


class Endpoint:
    """Embeds a text as (its length, 1), listed backwards; fails `failures` times before."""

    def __init__(self, failures: int = 0, change: Any = None) -> None:
        self.failures = failures
        self.change = change
        self.bodies: list[Mapping[str, Any]] = []

    async def post_json(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        assert path == "/embeddings"
        if self.failures:
            self.failures -= 1
            raise TransientError("429", retry_after=0.0)
        self.bodies.append(body)
        data = [{"index": k, "embedding": [float(len(text)), 1]} for k, text in enumerate(body["input"])]
        return {"data": self.change(data) if self.change else data[::-1]}


def test_an_endpoint_is_asked_in_batches_and_answers_in_any_order() -> None:
    endpoint = Endpoint()
    texts = ["x" * k for k in range(1, 12)]
    found = asyncio.run(EndpointEmbedder(endpoint, "small", batch=3).embed(texts))
    assert [len(body["input"]) for body in endpoint.bodies] == [3, 3, 3, 2]
    assert endpoint.bodies[0]["model"] == "small"
    expected = unit_rows(np.array([[float(k), 1.0] for k in range(1, 12)]))
    assert (found.vectors == expected).all()
    assert found.cosines == pytest.approx(expected @ expected.T)


def test_a_busy_endpoint_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(seconds: float) -> None:
        return None

    monkeypatch.setattr("inferalign.core.jobs.asyncio.sleep", at_once)
    endpoint = Endpoint(failures=2)
    assert asyncio.run(EndpointEmbedder(endpoint, "small").embed(["a\nb", "c"])).vectors.shape == (2, 2)
    assert endpoint.bodies[0]["input"] == ["a b", "c"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:1], "expected 2 embeddings"),
        (lambda data: [data[0], data[0]], "expected 2 embeddings"),
        (lambda data: {"error": "no such model"}, "expected 2 embeddings"),
        (lambda data: [data[0], {"index": 1, "embedding": [float("nan"), 1.0]}], "no list of finite numbers"),
        (lambda data: [data[0], {"index": 1, "embedding": "AAAA"}], "no list of finite numbers"),
        (lambda data: [data[0], {"index": 1, "embedding": []}], "no list of finite numbers"),
        (lambda data: [data[0], {"index": 1, "embedding": [True, False]}], "no list of finite numbers"),
        (lambda data: [data[0], {"index": 1, "embedding": [1.0]}], "differ in length"),
    ],
)
def test_an_answer_that_is_no_embedding(change: Any, message: str) -> None:
    with pytest.raises((EngineError, RunError), match=message):
        asyncio.run(EndpointEmbedder(Endpoint(change=change), "small").embed(["a", "b"]))


def test_sentence_transformers_are_loaded_from_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        def __init__(self, name: str, *, local_files_only: bool) -> None:
            assert (name, local_files_only) == ("folder/model", True)

        def encode(self, texts: list[str], *, show_progress_bar: bool) -> np.ndarray:
            assert not show_progress_bar
            return np.array([[float(len(text)), 0.0, 4.0] for text in texts], dtype=np.float32)

    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=Model))
    embedder = SentenceTransformersEmbedder("folder/model")
    found = asyncio.run(embedder.embed(["a\nb"]))
    assert found.vectors == pytest.approx(np.array([[0.6, 0.0, 0.8]]))
    assert embedder.describe() == {"embedding": "sentence-transformers", "model": "folder/model"}


def test_without_the_library_the_error_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match="pip install 'sentence_transformers'"):
        SentenceTransformersEmbedder("folder/model")


def test_a_model_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(name: str, *, local_files_only: bool) -> None:
        raise OSError(f"no file in {name}\nand more")

    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=opened))
    with pytest.raises(InputError, match=r"cannot open 'tfdif' \(no file in tfdif\): give tfidf, MODEL@URL, or"):
        SentenceTransformersEmbedder("tfdif")


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InputError, match=r"pip install 'inferalign\[agency\]'"):
        tfidf(TEXTS)


def test_every_embedder_names_itself_and_its_threshold() -> None:
    tfidf, endpoint = TfidfEmbedder(seed=3), EndpointEmbedder(Endpoint(), "small")
    assert tfidf.describe() == {"embedding": "tfidf-svd", "dimensions": embed.TFIDF_DIMENSIONS, "seed": 3}
    assert endpoint.describe() == {"embedding": "endpoint", "model": "small"}
    assert 0 < tfidf.near_duplicate < endpoint.near_duplicate < 1
