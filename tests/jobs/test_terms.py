"""Lines that are read at once, and terms that are known already, mean what they always meant."""

import json
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glinthawk.core.limits import Limits
from glinthawk.jobs import lines, terms
from glinthawk.jobs.lines import LineReader, Refusal, Task
from glinthawk.jobs.terms import TermsReader

_LIMITS = Limits(max_model_len=64, kv_tokens=1024, vocab_size=320)
#: Few values that are like one another, so that terms meet again, and nearly.
_VALUES = st.sampled_from([None, 0, 1, 1.0, True, -1, 0.5, "1", "a", ["a"], [1], {"1": 1}, {}])
_BODIES = st.fixed_dictionaries(
    {},
    optional={
        "prompt": st.sampled_from(["hello", [1, 2], [1.0, 2], [[1], [2]], [], [999], 5, None]),
        "messages": st.sampled_from([[{"role": "user", "content": "hello"}], [], "hello", None]),
        **dict.fromkeys(["n", "seed", "max_tokens", "temperature", "stop"], _VALUES),
        **dict.fromkeys(["logprobs", "echo", "logit_bias", "stream", "tools"], _VALUES),
        **dict.fromkeys(["add_generation_prompt", "chat_template_kwargs", "mistyped"], _VALUES),
    },
)
_LINES = st.fixed_dictionaries(
    {
        "url": st.sampled_from(["/v1/chat/completions", "/v1/completions", "/v1/nothing", 5]),
        "body": _BODIES | _VALUES,
    },
    optional={
        "custom_id": st.sampled_from(["a", "", 5, None]),
        "method": st.sampled_from(["POST", "post", "GET", None]),
        "more": st.none(),
    },
)


def _shown(read: Task | Refusal) -> object:
    if isinstance(read, Task):
        return read, [type(value) for value in vars_of(read.params)]
    error = read.error
    return read.line, read.custom_id, str(error), error.param, error.code


def vars_of(params: Any) -> list[Any]:
    """Its values: 1 is equal to 1.0 and to true."""
    return [getattr(params, name) for name in type(params).__dataclass_fields__]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(_LINES, min_size=1, max_size=4))
def test_known_or_not_a_line_is_the_same(reader: LineReader, items: list[dict[str, Any]]) -> None:
    quick = LineReader(reader.text, _LIMITS, "tiny")
    for number, item in enumerate([*items, *items]):
        raw = json.dumps(item).encode()
        slow = LineReader(reader.text, _LIMITS, "tiny")
        with patch.object(lines, "read_plain", lambda _raw: None):
            expected = slow.read(number, raw)
        assert _shown(quick.read(number, raw)) == _shown(expected)


def test_terms_are_understood_once(reader: LineReader, monkeypatch: pytest.MonkeyPatch) -> None:
    understood: list[object] = []
    understand = TermsReader.understand

    def counted(self: TermsReader, kind: Any, given: object) -> Any:
        understood.append(given)
        return understand(self, kind, given)

    monkeypatch.setattr(TermsReader, "understand", counted)
    own = LineReader(reader.text, _LIMITS, "tiny")
    for prompt in ([1, 2], [3]):
        for most in (1, True, 1.0):
            line = {"custom_id": "a", "url": "/v1/completions"}
            own.read(
                0, json.dumps({**line, "body": {"prompt": prompt, "max_tokens": most}}).encode()
            )
    # True is no number of tokens, so it is asked again.
    assert [one["max_tokens"] for one in understood] == [1, True, 1.0, True]  # type: ignore[index]


def test_few_terms_are_remembered(reader: LineReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "_MOST_KNOWN", 2)
    monkeypatch.setattr(terms, "_MOST_BYTES", 200)
    known = TermsReader(reader.text, _LIMITS, reader.rules, {}, None)
    for seed in range(7):
        known.read("completion", {"seed": seed})
        assert 0 < len(known._known) <= 2
    size = len(known._known)
    known.read("completion", {"user": "a" * 300})
    deep: Any = []
    for _ in range(3000):
        deep = [deep]
    known.read("completion", {"metadata": deep})
    assert len(known._known) == size
