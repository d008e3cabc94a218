"""Texts as unit vectors, for the choice of items that differ.

    TfidfEmbedder                  offline default: TF-IDF, then TruncatedSVD; fitted on the very texts it embeds
    EndpointEmbedder               any OpenAI-compatible server: POST /embeddings
    SentenceTransformersEmbedder   a model folder that is on this machine; nothing is downloaded

Each says from which cosine on two texts are near-duplicates in its own space: a cosine of one embedding means nothing
in another. The published pipeline (arXiv 2509.08494) takes text-embedding-3-small, with line breaks made spaces; all
three make them spaces. The offline default sees words, not meanings: a paraphrase in other words is far from its
original.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from inferalign.core.errors import EngineError, InputError
from inferalign.core.jobs import run_jobs
from inferalign.core.lookup import load
from inferalign.core.seeds import derive

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float64]

TFIDF_DIMENSIONS = 256
"""At most; fewer texts or fewer words give fewer."""


@dataclass(frozen=True)
class Embedding:
    vectors: Vectors
    """`[texts, dimensions]`: points to cluster."""
    cosines: Vectors
    """`[texts, texts]`: of every two texts, before any reduction of the dimensions."""

    @classmethod
    def of(cls, vectors: Vectors) -> Embedding:
        """Of vectors that are not reduced: they are divided by their lengths."""
        unit = unit_rows(vectors)
        return cls(vectors=unit, cosines=unit @ unit.T)


class Embedder(Protocol):
    @property
    def near_duplicate(self) -> float:
        """The cosine from which on two texts count as one."""
        ...

    def describe(self) -> Mapping[str, object]:
        """What a record must say of this embedding."""
        ...

    async def embed(self, texts: Sequence[str]) -> Embedding:
        """Raises `InputError` for a text that has no direction."""
        ...


class PostsJson(Protocol):
    """What `EndpointEmbedder` needs of an HTTP client."""

    async def post_json(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The JSON object that the server answers. Raises `TransientError` where a repeat may succeed."""
        ...


class TfidfEmbedder:
    """TF-IDF weights (1 + log tf, smooth idf, English stop words out) and their leading singular directions.

    Where near-duplicates begin: of the shipped items, two of one dimension have a cosine of .17 at most; a copy in
    which a fifth of the words is replaced has .7 to .9 with its original, one with half of them replaced .3 to .7.
    These are cosines of the TF-IDF weights themselves. After a truncation to far fewer directions than texts they say
    little (the 240 shipped items in 64 directions: .65 for two that have nothing in common), so they are taken before.
    """

    def __init__(self, *, seed: int = 0, near_duplicate: float = 0.6) -> None:
        self.seed = seed
        self.near_duplicate = near_duplicate

    def describe(self) -> Mapping[str, object]:
        return {"embedding": "tfidf-svd", "dimensions": TFIDF_DIMENSIONS, "seed": self.seed}

    async def embed(self, texts: Sequence[str]) -> Embedding:
        if len(texts) < 2:
            raise InputError(f"{len(texts)} texts have no TF-IDF embedding: give at least 2")
        return await asyncio.to_thread(self._embed, one_line(texts))

    def _embed(self, texts: Sequence[str]) -> Embedding:
        import numpy as np

        vectorizer = load("sklearn.feature_extraction.text:TfidfVectorizer")(sublinear_tf=True, stop_words="english")
        truncated = load("sklearn.decomposition:TruncatedSVD")
        one_thread = load("threadpoolctl:threadpool_limits")
        # One thread: sums of several come in an order, and so with last digits, of their own each time.
        with one_thread(limits=1):
            try:
                weights = vectorizer.fit_transform(texts)
            except ValueError as error:
                raise InputError(f"the texts have no words to embed ({error}): check the items") from error
            check_directions(np.diff(weights.indptr))
            dimensions = min(TFIDF_DIMENSIONS, *weights.shape)
            seed = derive(self.seed, "tfidf-svd") % 2**32
            vectors = truncated(n_components=dimensions, random_state=seed).fit_transform(weights)
            return Embedding(vectors=vectors, cosines=(weights @ weights.T).toarray())


@dataclass(frozen=True)
class _Batch:
    id: str
    texts: list[str]


class EndpointEmbedder:
    """A model behind `POST /embeddings`. Requests of `batch` texts, a few at a time, repeated as all jobs are."""

    def __init__(self, client: PostsJson, model: str, *, batch: int = 64, near_duplicate: float = 0.92) -> None:
        self.client = client
        self.model = model
        self.batch = batch
        self.near_duplicate = near_duplicate

    def describe(self) -> Mapping[str, object]:
        return {"embedding": "endpoint", "model": self.model}

    async def embed(self, texts: Sequence[str]) -> Embedding:
        import numpy as np

        lines = one_line(texts)
        batches = [_Batch(str(start), lines[start : start + self.batch]) for start in range(0, len(lines), self.batch)]
        rows: dict[str, list[list[float]]] = {}
        await run_jobs(
            batches, self._request, on_result=lambda batch, vectors: rows.update({batch.id: vectors}), concurrency=4
        )
        vectors = [row for batch in batches for row in rows[batch.id]]
        if len({len(row) for row in vectors}) > 1:
            raise EngineError(f"{self.model}: the server's embeddings differ in length. Check the model's name.")
        return Embedding.of(np.asarray(vectors, dtype=np.float64))

    async def _request(self, batch: _Batch) -> list[list[float]]:
        body = {"model": self.model, "input": batch.texts, "encoding_format": "float"}
        return _rows(await self.client.post_json("/embeddings", body), len(batch.texts), self.model)


def _rows(answer: Mapping[str, Any], n: int, model: str) -> list[list[float]]:
    """The `n` vectors of an answer in the order of the texts, whatever order the server lists them in."""
    data = answer.get("data")
    entries = data if isinstance(data, list) else []
    by_place = {entry.get("index"): entry.get("embedding") for entry in entries if isinstance(entry, dict)}
    if len(entries) != n or set(by_place) != set(range(n)):
        raise EngineError(
            f"{model}: expected {n} embeddings with the indices 0 to {n - 1}, got {len(entries)} entries."
        )
    rows: list[Any] = [by_place[place] for place in range(n)]
    for place, row in enumerate(rows):
        if not isinstance(row, list) or not row or not all(_finite(value) for value in row):
            raise EngineError(f"{model}: embedding {place} is no list of finite numbers.")
    return rows


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class SentenceTransformersEmbedder:
    """A sentence-transformers model that is on this machine. Raises `InputError` when it or the library is not."""

    def __init__(self, model: str, *, near_duplicate: float = 0.92) -> None:
        self.model = model
        self.near_duplicate = near_duplicate
        # Never from the network: what a name on a hub holds can change from one day to the next.
        opened = load("sentence_transformers:SentenceTransformer")
        try:
            self._encoder = opened(model, local_files_only=True)
        except (OSError, ValueError) as error:
            why = str(error).partition("\n")[0]
            raise InputError(
                f"cannot open {model!r} ({why}): give tfidf, MODEL@URL, or a sentence-transformers model's directory"
            ) from error

    def describe(self) -> Mapping[str, object]:
        return {"embedding": "sentence-transformers", "model": self.model}

    async def embed(self, texts: Sequence[str]) -> Embedding:
        import numpy as np

        vectors = await asyncio.to_thread(self._encoder.encode, one_line(texts), show_progress_bar=False)
        return Embedding.of(np.asarray(vectors, dtype=np.float64))


def one_line(texts: Sequence[str]) -> list[str]:
    """Line breaks made spaces, as the published pipeline has it."""
    return [text.replace("\n", " ") for text in texts]


def unit_rows(vectors: Vectors) -> Vectors:
    """Every row divided by its length. Raises `InputError` for a row of zeros."""
    import numpy as np

    lengths: Vectors = np.linalg.norm(vectors, axis=1, keepdims=True)
    check_directions(lengths[:, 0])
    return vectors / lengths


def check_directions(lengths: NDArray[Any]) -> None:
    """Raises `InputError` for a text of length 0: it is near to nothing and far from nothing."""
    if not lengths.all():
        place = int((lengths == 0).argmax())
        raise InputError(f"text {place + 1} of {len(lengths)} has an embedding of zeros: it has no word to go by")
