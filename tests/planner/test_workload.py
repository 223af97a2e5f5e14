"""Lengths of prompts and answers."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glinthawk.core.errors import UsageError
from glinthawk.planner.workload import Workload


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=20))
def test_means_are_those_of_every_step(lengths: list[tuple[int, int]]) -> None:
    work = Workload("test", tuple(lengths))
    held = [given + step for given, output in lengths for step in range(output)]
    rows = [given + step for given, output in lengths for step in range(1, output)]
    assert work.mean_held == pytest.approx(sum(held) / len(held))
    if rows:
        assert work.mean_context == pytest.approx(sum(rows) / len(rows))


def test_requests_share_no_token() -> None:
    work = Workload("test", ((3, 5), (7, 2)))
    requests = list(work.requests(5, seed=1))
    assert [one.id for one in requests] == list(range(5))
    assert all(set(one.prompt) == {one.id} and one.params.ignore_eos for one in requests)
    counts = Counter((len(one.prompt), one.max_tokens) for one in requests)
    assert sorted(counts.values()) == [2, 3]
    assert requests == list(work.requests(5, seed=1))


def test_chat_has_the_lengths_that_were_reported() -> None:
    work = Workload.sharegpt()
    assert work.mean_input == pytest.approx(161, rel=0.15)
    assert work.mean_output == pytest.approx(338, rel=0.15)
    assert max(sum(pair) for pair in work.lengths) <= 2048
    assert work == Workload.sharegpt()


def test_a_file_of_lengths(tmp_path: Path) -> None:
    path = tmp_path / "lengths.jsonl"
    path.write_text('{"input": 512, "output": 256}\n\n{"input": 8, "output": 4}\n')
    assert Workload.parse(str(path)).lengths == ((512, 256), (8, 4))
    assert Workload.parse("32000:1000").lengths == ((32000, 1000),)
    assert Workload.parse("sharegpt").name == "sharegpt"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"input": 1}', "line 1"),
        ('{"input": 1, "output": 1, "x": 1}', "line 1"),
        ('{"input": 1, "output": 0}', "at least a token"),
        ("", "at least a token"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "lengths.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        Workload.load(path)


@pytest.mark.parametrize("text", ["512", "a:b", "no-such-file", "-1:5"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="give 512:256"):
        Workload.parse(text)
