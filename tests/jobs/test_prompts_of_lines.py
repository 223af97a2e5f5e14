"""Several prompts in a line, answers that begin with them, and what is said of their tokens."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glinthawk.core.prompt_scores import TokenScore
from glinthawk.jobs.echo import echo_logprobs, echo_text
from glinthawk.jobs.prompts import Prompt
from glinthawk.jobs.text import Text
from job_files import line, results, run_job, write_input

_CHAT = "/v1/chat/completions"


def _bodies(folder: Path, text: Text, *lines: dict[str, Any]) -> list[dict[str, Any]]:
    output = folder / "out"
    run_job(write_input(folder / "in", list(lines)), output, text=text, restart=True)
    return [result["response"]["body"] for result in results(output)]


# Several prompts


def test_ids_of_a_table_are_whole_numbers(tmp_path: Path, text: Text) -> None:
    one, other = _bodies(tmp_path, text, line("a", prompt=[5, 6]), line("b", prompt=[5.0, 6.0]))
    assert one["usage"] == other["usage"]


def test_a_line_of_prompts_is_answered_as_lines_of_one(tmp_path: Path, text: Text) -> None:
    prompts: list[Any] = ["the cat", [5, 6], "hello"]
    fields: dict[str, Any] = {"n": 2, "seed": 3, "max_tokens": 6}
    together, *alone = _bodies(
        tmp_path,
        text,
        line("all", prompt=prompts, **fields),
        *(line(str(one), prompt=one, **fields) for one in prompts),
    )
    assert [choice["index"] for choice in together["choices"]] == list(range(6))
    texts = [choice["text"] for body in alone for choice in body["choices"]]
    assert [choice["text"] for choice in together["choices"]] == texts
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert together["usage"][name] == sum(body["usage"][name] for body in alone)


def test_prompts_without_a_seed_have_random_numbers_of_their_own(
    tmp_path: Path, text: Text
) -> None:
    (body,) = _bodies(tmp_path, text, line(prompt=[[5, 6]] * 3, n=2))
    assert len({choice["text"] for choice in body["choices"]}) == 6


# Echo


def test_an_echo_stands_before_every_answer(tmp_path: Path, text: Text) -> None:
    prompts = ["the <s>cat", "hello"]
    said, plain = _bodies(
        tmp_path,
        text,
        line("a", prompt=prompts, n=2, seed=1, echo=True),
        line("b", prompt=prompts, n=2, seed=1),
    )
    for choice, other in zip(said["choices"], plain["choices"], strict=True):
        assert choice["text"] == prompts[choice["index"] // 2] + other["text"]
    assert said["usage"] == plain["usage"]


def test_an_echo_of_token_ids_is_their_text(tmp_path: Path, text: Text) -> None:
    (body,) = _bodies(tmp_path, text, line(prompt=list(text.encode("the cat")), echo=True))
    assert body["choices"][0]["text"].startswith("the cat")


def test_nothing_but_the_prompt(tmp_path: Path, text: Text) -> None:
    ids = text.encode("the cat")
    asked = line(prompt="the cat", echo=True, max_tokens=0, logprobs=1, n=2)
    (body,) = _bodies(tmp_path, text, asked)
    assert body["usage"]["completion_tokens"] == 0
    for choice in body["choices"]:
        assert (choice["text"], choice["finish_reason"]) == ("the cat", "length")
        assert choice["logprobs"]["tokens"] == ["<s>", *map(text.token_text, ids[1:])]
        values = [None, *(-token / 8 for token in ids[1:])]
        assert choice["logprobs"]["token_logprobs"] == pytest.approx(values)
        assert choice["logprobs"]["text_offset"][:3] == [0, 0, len(text.token_text(ids[1]))]
        first, *others = choice["logprobs"]["top_logprobs"]
        assert first is None
        likeliest = text.token_name(9)
        for token, alternatives in zip(ids[1:], others, strict=True):
            assert alternatives == {likeliest: -0.25, text.token_text(token): -token / 8}
        assert "prompt_logprobs" not in choice


def test_logprobs_of_an_echo_go_on_with_those_of_the_answer(tmp_path: Path, text: Text) -> None:
    fields: dict[str, Any] = {"prompt": "the cat", "logprobs": 2, "max_tokens": 4, "seed": 1}
    echoed, plain = _bodies(tmp_path, text, line("a", echo=True, **fields), line("b", **fields))
    whole, answer = (body["choices"][0]["logprobs"] for body in (echoed, plain))
    for name in ("tokens", "token_logprobs", "top_logprobs"):
        assert whole[name][-4:] == answer[name]
    assert whole["text_offset"][-4:] == [len("the cat") + at for at in answer["text_offset"]]


_WORDS = st.lists(
    st.sampled_from(["the", " cat", "  ", "<s>", "</s>", "é", "🙂", "<|user|>", "\n"]), max_size=8
).map("".join)


@settings(max_examples=100, deadline=None)
@given(words=_WORDS, as_text=st.booleans())
def test_tokens_stand_where_their_offsets_say(text: Text, words: str, as_text: bool) -> None:
    ids = text.encode(words)
    prompt = Prompt(ids, 1, words if as_text else None)
    whole = echo_text(prompt, text)
    assert whole == (words if as_text else text.decode(ids))
    scores = [TokenScore(-1.0, 1, ())] * (len(ids) - 1)
    empty: dict[str, Any] = {"text_offset": [], "tokens": [], "token_logprobs": []}
    said = echo_logprobs(prompt, scores, 0, {**empty, "top_logprobs": []}, text)
    ends = [*said["text_offset"][1:], len(whole)]
    shown = [whole[begin:end] for begin, end in zip(said["text_offset"], ends, strict=True)]
    for token, piece, one in zip(ids, said["tokens"], shown, strict=True):
        assert one == piece or (one == "" and text.is_special(token))
    assert "".join(shown) == whole


# What is said of a prompt's tokens


def _expected(text: Text, ids: tuple[int, ...], num_top: int) -> list[Any]:
    likeliest = {9: -0.25, 8: -0.5, 3: -1, 4: -2}
    tops = dict(list(likeliest.items())[:num_top])
    entries = [
        {token: (-token / 8, 7)} | {t: (v, rank + 1) for rank, (t, v) in enumerate(tops.items())}
        for token in ids[1:]
    ]
    return [None] + [
        {
            str(token): {"logprob": value, "rank": rank, "decoded_token": text.token_text(token)}
            for token, (value, rank) in entry.items()
        }
        for entry in entries
    ]


@pytest.mark.parametrize("num_top", [0, 2])
def test_a_completion_says_it_in_every_choice(tmp_path: Path, text: Text, num_top: int) -> None:
    (body,) = _bodies(
        tmp_path,
        text,
        line(prompt=["the cat", "hello"], n=2, prompt_logprobs=num_top, echo=True, logprobs=3),
    )
    for number, choice in enumerate(body["choices"]):
        ids = text.encode(["the cat", "hello"][number // 2])
        assert choice["prompt_logprobs"] == _expected(text, ids, num_top)
        # An echo shows as many alternatives as ``logprobs`` says.
        assert {len(one) for one in choice["logprobs"]["top_logprobs"][1 : len(ids)]} == {4}


def test_a_chat_says_it_once(tmp_path: Path, text: Text) -> None:
    said = [{"role": "user", "content": "a"}]
    (body,) = _bodies(
        tmp_path, text, line("a", _CHAT, messages=said, prompt_logprobs=1, n=2, max_tokens=2)
    )
    assert body["prompt_logprobs"] == _expected(text, text.encode_chat(said), 1)
    assert all("prompt_logprobs" not in choice for choice in body["choices"])
