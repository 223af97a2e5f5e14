"""Hidden states of a run come from one link: the first of the latest attempt."""

from hypothesis import given
from hypothesis import strategies as st

from glinthawk.engine.hidden_sources import Sources

_CLIENTS = (b"one", b"two", b"three")


@given(st.lists(st.tuples(st.sampled_from(_CLIENTS), st.integers(0, 4)), max_size=20))
def test_the_first_link_of_the_latest_attempt_is_the_source(
    follows: list[tuple[bytes, int]],
) -> None:
    sources, latest, expected = Sources(), -1, None
    for client, attempt in follows:
        if attempt > latest:
            latest, expected = attempt, client
        assert sources.admits(client, "run", attempt) == (client == expected)
        assert [sources.has(c, "run") for c in _CLIENTS] == [c == expected for c in _CLIENTS]
        assert not sources.has(client, "another run")


def test_the_oldest_of_many_runs_is_forgotten() -> None:
    sources = Sources()
    for number in range(1000):
        assert sources.admits(b"one", f"run {number}", 1)
    assert not sources.has(b"one", "run 0")
    assert sources.has(b"one", "run 999")
