"""The sentence encoder at its seam: a stand-in for the library, whose errors become ours."""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType

import numpy as np
import pytest

from inferalign.core.errors import ModelError
from inferalign.core.types import RoleUsage
from inferalign.procedures.rain_embedding import SentenceEncoder


class Encoder:
    """Vectors of a text's length and vowels; one name cannot be loaded."""

    def __init__(self, name: str) -> None:
        if name == "owner/missing":
            raise OSError("no such model")

    def encode(self, texts: list[str]) -> list[list[float]]:
        return [[float(len(text)), float(sum(c in "aeiou" for c in text))] for text in texts]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("sentence_transformers")
    module.SentenceTransformer = Encoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)


def decode(ids: tuple[int, ...]) -> str:
    return "".join(map(chr, ids))


def test_suffixes_are_unit_vectors_of_decoded_text(library: None) -> None:
    encoder, usage = SentenceEncoder("owner/model", decode), RoleUsage()
    first, last, none = asyncio.run(encoder.suffixes(tuple(map(ord, "abbb")), [0, 3, 4], usage))
    np.testing.assert_allclose(first, np.array([4, 1]) / np.sqrt(17), rtol=1e-6)
    np.testing.assert_allclose(last, [1, 0], rtol=1e-6)
    assert none is None
    assert usage.forward_calls == 1


def test_an_encoder_that_cannot_be_loaded(library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="cannot load the sentence encoder 'owner/missing': no such model"):
        SentenceEncoder("owner/missing", decode)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ModelError, match="pip install sentence-transformers"):
        SentenceEncoder("owner/model", decode)
