"""SamplingParams: every bad field is named, at once, with the range that would do."""

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glinthawk.core.sampling import MAX_LOGPROBS, SamplingParams
from glinthawk.core.seeds import choice_seed
from glinthawk.core.structured_outputs import StructuredOutputsParams
from glinthawk.core.vllm_params import RequestOutputKind, VllmParams

QUIET = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NAN, INF = math.nan, math.inf

GOOD: list[tuple[str, Any]] = [
    *[("n", value) for value in (1, 128)],
    *[("temperature", value) for value in (0, 0.0, 2.5, 1e9)],
    *[("top_p", value) for value in (1e-9, 1, 1.0)],
    *[("top_k", value) for value in (-1, 0, 1, 10**9)],
    *[("min_p", value) for value in (0, 1)],
    *[("seed", value) for value in (None, 0, -(2**63), 2**63 - 1)],
    *[("stop", value) for value in ((), [], ["a"], "a", ("a", "b"))],
    *[("stop_token_ids", value) for value in ((), [0], [5, 6])],
    *[("max_tokens", value) for value in (None, 0, 1, 10**9)],
    *[("min_tokens", value) for value in (0, 16)],
    *[("logprobs", value) for value in (None, 0, MAX_LOGPROBS)],
    *[("prompt_logprobs", value) for value in (None, 0, MAX_LOGPROBS)],
    *[("logit_bias", value) for value in ({}, {0: -100, 5: 100.0})],
    *[("frequency_penalty", value) for value in (-2, 0, 2)],
    *[("presence_penalty", value) for value in (-2, 0, 2)],
    *[("repetition_penalty", value) for value in (1e-9, 1, 50)],
    *[("allowed_token_ids", value) for value in (None, [5], (0, 7))],
    *[("bad_words", value) for value in ((), ["a"], "a")],
    *[("truncate_prompt_tokens", value) for value in (None, -1, 1)],
    *[("include_stop_str_in_output", value) for value in (True, False)],
    *[("skip_special_tokens", value) for value in (True, False)],
    *[("structured_outputs", value) for value in (None, StructuredOutputsParams(regex="a"))],
]
BAD: list[tuple[str, Any]] = [
    *[("n", value) for value in (0, -1, 129)],
    *[("temperature", value) for value in (-0.1, NAN, INF)],
    *[("top_p", value) for value in (0, -1, 1.01, NAN)],
    *[("top_k", value) for value in (-2,)],
    *[("min_p", value) for value in (-0.1, 1.1, NAN)],
    *[("seed", value) for value in (2**63, -(2**63) - 1)],
    *[("stop", value) for value in ([""], ["a", ""], "")],
    *[("max_tokens", value) for value in (-1,)],
    *[("min_tokens", value) for value in (-1, 17)],
    *[("logprobs", value) for value in (-1, MAX_LOGPROBS + 1)],
    *[("prompt_logprobs", value) for value in (-1, MAX_LOGPROBS + 1)],
    *[("logit_bias", value) for value in ({1: 101}, {1: -100.5}, {1: NAN})],
    *[("frequency_penalty", value) for value in (-2.1, 2.1, NAN)],
    *[("presence_penalty", value) for value in (-2.1, 2.1, NAN)],
    *[("repetition_penalty", value) for value in (0, -1, INF, NAN)],
    *[("allowed_token_ids", value) for value in ([], [-1], ["5"])],
    *[("bad_words", value) for value in ([""], [5])],
    *[("truncate_prompt_tokens", value) for value in (0, -2)],
    *[("structured_outputs", value) for value in ({}, {"regex": "a"}, "a")],
]
#: Values of a wrong kind, or that would change another token than the one named.
UNCHECKED: list[tuple[str, Any]] = [
    ("temperature", "hot"),
    ("n", 1.5),
    ("n", "2"),
    ("top_k", 2.5),
    ("seed", 1.5),
    ("stop", [5]),
    ("stop_token_ids", [-1]),
    ("stop_token_ids", ["5"]),
    ("max_tokens", 2.5),
    ("min_tokens", 0.5),
    ("logprobs", 1.5),
    ("logit_bias", {-1: 5}),
    ("logit_bias", {"5": 5}),
]


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_good_values_are_taken(name: str, value: Any) -> None:
    params = SamplingParams(**{name: value})
    assert getattr(params, name) == (("a",) if value == "a" else value)


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_an_error_that_names_the_field(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be .*, not "):
        SamplingParams(**{name: value})


@pytest.mark.parametrize(("name", "value"), UNCHECKED)
def test_a_value_of_a_wrong_kind_is_an_error_that_names_the_field(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be .*, not "):
        SamplingParams(**{name: value})


@pytest.mark.parametrize("name", ["stop", "stop_token_ids", "bad_words", "logit_bias"])
def test_none_means_nothing_as_in_vllm(name: str) -> None:
    assert not getattr(SamplingParams(**{name: None}), name)


def test_every_field_with_a_range_is_tested() -> None:
    fields = {field.name for field in dataclasses.fields(SamplingParams)}
    fields -= {field.name for field in dataclasses.fields(VllmParams)}
    flags = {"ignore_eos", "include_stop_str_in_output", "skip_special_tokens"}
    assert fields - {name for name, _ in GOOD} == {"ignore_eos"}
    assert fields - {name for name, _ in BAD} == {*flags, "stop_token_ids"}


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(TypeError, match="worst_of"):
        SamplingParams(worst_of=2)  # type: ignore[call-arg]


def test_min_tokens_may_be_anything_without_max_tokens() -> None:
    assert SamplingParams(min_tokens=500, max_tokens=None).min_tokens == 500


@pytest.mark.parametrize(("temperature", "greedy"), [(0, True), (9e-6, True), (1e-5, False)])
def test_cold_is_greedy(temperature: float, greedy: bool) -> None:
    assert SamplingParams(temperature=temperature).greedy is greedy


@pytest.mark.parametrize(
    ("rules", "shapes"),
    [
        ({}, False),
        ({"temperature": 0.5, "top_k": 3, "top_p": 0.5, "min_p": 0.1}, False),
        ({"logit_bias": {1: 0}}, True),
        ({"frequency_penalty": -0.1}, True),
        ({"presence_penalty": 0.1}, True),
        ({"repetition_penalty": 0.9}, True),
        ({"min_tokens": 1}, True),
        ({"allowed_token_ids": [1]}, True),
        ({"bad_words": ["a"]}, True),
    ],
)
def test_only_biases_penalties_and_min_tokens_shape_logits(
    rules: dict[str, Any], shapes: bool
) -> None:
    assert SamplingParams(**rules).shapes_logits is shapes


def test_params_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SamplingParams().n = 2  # type: ignore[misc]


# Seeds of answers


def test_seeds_are_the_same_for_ever() -> None:
    assert choice_seed(0, SamplingParams(), "line-1", 0, ()) == 4289587682300804818
    assert choice_seed(7, SamplingParams(), "line-1", 1, ()) == 1947818554379066989


@QUIET
@given(st.integers(-(2**63), 2**63 - 1), st.text(max_size=9), st.integers(0, 127))
def test_seeds_are_64_bit_numbers(run_seed: int, name: str, index: int) -> None:
    for params in (SamplingParams(), SamplingParams(seed=run_seed)):
        assert -(2**63) <= choice_seed(run_seed, params, name, index, (3, 2**31)) < 2**63


def test_every_choice_name_and_run_has_its_own_seed() -> None:
    seeds = {
        choice_seed(run, SamplingParams(), name, index, (5, 6))
        for run in range(5)
        for name in ("a", "b", "ab", "")
        for index in range(5)
    }
    assert len(seeds) == 100


def test_a_requests_own_seed_is_mixed_with_its_prompt_and_nothing_else() -> None:
    def seed(run: int, name: str, *prompt: int, own: int = 42, index: int = 0) -> int:
        return choice_seed(run, SamplingParams(seed=own), name, index, prompt)

    assert seed(0, "a", 5, 6) == seed(9, "b", 5, 6)
    others = [seed(0, "a", 5), seed(0, "a", 6, 5), seed(0, "a", 5, 6, own=43)]
    assert len({seed(0, "a", 5, 6), *others, seed(0, "a", 5, 6, index=1)}) == 5


def test_seed_minus_one_is_none() -> None:
    assert SamplingParams(seed=-1) == SamplingParams()


@pytest.mark.parametrize("ids", [{5, 9}, frozenset({5, 9}), [5, 9], (5, 9), iter([5, 9])])
def test_tokens_may_be_given_in_any_form(ids: Any) -> None:
    allowed = SamplingParams(allowed_token_ids=ids).allowed_token_ids
    assert isinstance(allowed, list | tuple)
    assert {*allowed} == {5, 9}


@pytest.mark.parametrize("name", ["allowed_token_ids", "bad_words", "stop_token_ids"])
def test_what_is_no_list_is_named(name: str) -> None:
    given: dict[str, Any] = {name: 3}
    with pytest.raises(ValueError, match=f"^{name} must be a list, not 3"):
        SamplingParams(**given)


# What vLLM's have beside ours

IDLE: list[tuple[str, Any]] = [
    ("detokenize", False),
    ("spaces_between_special_tokens", False),
    ("skip_reading_prefix_cache", True),
    ("skip_clone", True),
    ("output_kind", RequestOutputKind.DELTA),
    *[(name, None) for name in ("best_of", "extra_args", "logits_processors", "guided_decoding")],
    *[(name, None) for name in ("thinking_token_budget", "repetition_detection")],
    *[("logits_processors", []), ("extra_args", {}), ("best_of", 1), ("flat_logprobs", False)],
]
REFUSED: list[tuple[str, Any, str]] = [
    ("flat_logprobs", True, "leave it out"),
    ("logits_processors", [len], "use logit_bias"),
    ("guided_decoding", {"regex": "a"}, "use structured_outputs"),
    ("extra_args", {"a": 1}, "leave it out"),
    ("thinking_token_budget", 5, "use max_tokens"),
    ("repetition_detection", {"a": 1}, "use repetition_penalty"),
    ("best_of", 2, "ask for n answers"),
]


@pytest.mark.parametrize(("name", "value"), IDLE)
def test_what_changes_nothing_is_taken(name: str, value: Any) -> None:
    assert getattr(SamplingParams(**{name: value}), name) == value


@pytest.mark.parametrize(("name", "value", "advice"), REFUSED)
def test_what_is_not_done_is_refused_by_name(name: str, value: Any, advice: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} cannot be .* here: {advice}"):
        SamplingParams(**{name: value})


def test_every_parameter_of_vllms_is_tested() -> None:
    tested = {name for name, _ in IDLE}
    assert tested == {field.name for field in dataclasses.fields(VllmParams)}


def test_stop_strings_are_looked_for_in_text() -> None:
    with pytest.raises(ValueError, match=r"^detokenize must be True with stop"):
        SamplingParams(stop=["a"], detokenize=False)


def test_a_kind_of_output_is_no_number() -> None:
    given: dict[str, Any] = {"output_kind": 1}
    with pytest.raises(ValueError, match=r"^output_kind must be a RequestOutputKind"):
        SamplingParams(**given)
