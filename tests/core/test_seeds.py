import numpy as np
from scipy import stats

from inferalign.core.seeds import derive, fingerprint, uniforms


def test_derive_is_pinned() -> None:
    """SHA-256 of "0" begins 5feceb66ffc86f38. Recorded draws depend on this: a change must be a decision."""
    assert derive(0) == int.from_bytes(bytes.fromhex("5feceb66ffc86f38"), "little")
    assert derive(0, "p1", "draw", 3) == derive(0, "p1", "draw", 3) != derive(1, "p1", "draw", 3)


def test_keys_are_kept_apart() -> None:
    seeds = [
        derive(0, *keys) for keys in [("a", "b"), ("b", "a"), ("ab",), ("ab", ""), ("1",), (1,), (), ("a", "b", 0)]
    ]
    assert len(set(seeds)) == len(seeds)


def test_a_shorter_stream_begins_a_longer_one() -> None:
    assert np.array_equal(uniforms(7, 3), uniforms(7, 10)[:3])
    assert not np.array_equal(uniforms(7, 3), uniforms(8, 3))


def test_first_numbers_of_many_streams_are_uniform_and_unrelated() -> None:
    rows = np.stack([uniforms(derive(0, "prompt", i), 2) for i in range(2000)])
    assert stats.kstest(rows[:, 0], "uniform").pvalue > 0.01
    assert abs(np.corrcoef(rows.T)[0, 1]) < 0.06


def test_fingerprint_depends_on_ids_and_order() -> None:
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    assert fingerprint([1, 256]) != fingerprint([1, 0, 1])
    assert fingerprint([]) != fingerprint([0])
