"""Hidden states of a run come from the links of its latest attempt."""

from hypothesis import given
from hypothesis import strategies as st

from glinthawk.engine.hidden_sources import Sources

_CLIENTS = (b"one", b"two", b"three")


@given(st.lists(st.tuples(st.sampled_from(_CLIENTS), st.integers(0, 4)), max_size=20))
def test_the_links_of_the_latest_attempt_are_the_sources(
    follows: list[tuple[bytes, int]],
) -> None:
    sources, latest = Sources(), -1
    expected: set[bytes] = set()
    for client, attempt in follows:
        if attempt > latest:
            latest, expected = attempt, set()
        if attempt == latest:
            expected.add(client)
        assert sources.admits(client, "run", attempt) == (client in expected)
        assert [sources.has(c, "run") for c in _CLIENTS] == [c in expected for c in _CLIENTS]
        assert not sources.has(client, "another run")


def test_an_attempt_has_so_many_links() -> None:
    sources = Sources()
    heard = [sources.admits(b"%d" % number, "run", 1) for number in range(1000)]
    assert heard[0] and not heard[-1]
    assert sources.admits(b"0", "run", 1)


def test_the_oldest_of_many_runs_is_forgotten() -> None:
    sources = Sources()
    for number in range(1000):
        assert sources.admits(b"one", f"run {number}", 1)
    assert not sources.has(b"one", "run 0")
    assert sources.has(b"one", "run 999")
