"""What one request must fit in, decided before it runs."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import RequestError
from glinthawk.core.limits import Limits
from glinthawk.core.more_kv import advise_more_kv
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import FinishReason, Request, Sequence

QUIET = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
LIMITS = Limits(max_model_len=100, kv_tokens=64, vocab_size=50)


def _prompt(length: int) -> tuple[int, ...]:
    return (1,) * length


def _error(limits: Limits, prompt: tuple[int, ...], asked: int | None = None) -> RequestError:
    with pytest.raises(RequestError) as caught:
        limits.max_tokens(prompt, asked)
    return caught.value


@pytest.mark.parametrize("token", [-1, 50, 2**70])
def test_a_token_outside_the_vocabulary_is_named(token: int) -> None:
    error = _error(LIMITS, (0, token, 49))
    assert error.param == "prompt"
    assert f"{token} " in str(error)
    assert "0 to 49" in str(error)


def test_the_whole_vocabulary_is_taken() -> None:
    LIMITS.max_tokens((0, 49), 1)


def test_an_empty_prompt_is_an_error() -> None:
    assert _error(LIMITS, ()).param == "prompt"


def test_a_prompt_as_long_as_the_model_leaves_no_room() -> None:
    limits = Limits(max_model_len=30, kv_tokens=64, vocab_size=50)
    error = _error(limits, _prompt(30))
    assert (error.code, error.param) == ("context_length_exceeded", "prompt")
    assert "the model takes no more" in str(error)
    shorter = Limits(max_model_len=30, kv_tokens=64, vocab_size=50, longest_len=32)
    assert "raise --max-model-len to at most 32" in str(_error(shorter, _prompt(30)))
    assert limits.max_tokens(_prompt(29), None) == 1


def test_a_prompt_that_no_memory_holds_is_told_which_memory_to_raise() -> None:
    config = EngineConfig(model="demo", tier2=("local:1",))
    error = _error(replace(LIMITS, more_kv=advise_more_kv(config)), _prompt(65))
    assert (error.code, error.param) == ("kv_memory_exceeded", "prompt")
    assert str(error).endswith("; raise --worker-kv")
    assert LIMITS.max_tokens(_prompt(63), None) == 2


def test_a_prompt_that_fills_the_memory_gets_its_one_token() -> None:
    """The last token's KV is never needed, so 64 tokens of memory answer 64 tokens of prompt."""
    assert LIMITS.max_tokens(_prompt(64), 1) == 1


def test_an_answer_is_cut_to_the_models_length() -> None:
    limits = Limits(max_model_len=40, kv_tokens=1000, vocab_size=50)
    assert limits.max_tokens(_prompt(30), 500) == 10
    assert limits.max_tokens(_prompt(30), 7) == 7
    assert limits.max_tokens(_prompt(30), None) == 10


def test_an_open_wish_is_cut_to_the_memory_and_an_explicit_one_is_an_error() -> None:
    assert LIMITS.max_tokens(_prompt(60), None) == 5
    assert LIMITS.max_tokens(_prompt(60), 5) == 5
    error = _error(LIMITS, _prompt(60), 6)
    assert (error.code, error.param) == ("kv_memory_exceeded", "max_tokens")
    assert "65 tokens" in str(error)


@pytest.mark.parametrize(
    ("reason", "asked", "outgrown"),
    [
        (FinishReason.LENGTH, None, True),
        (FinishReason.STOP, None, False),
        (FinishReason.LENGTH, 5, False),
    ],
)
def test_an_open_answer_that_memory_ends_is_an_error(
    reason: FinishReason, asked: int | None, outgrown: bool
) -> None:
    """Any other would depend on the memory of the machine."""
    granted = LIMITS.max_tokens(_prompt(60), asked)
    params = SamplingParams(max_tokens=asked)
    sequence = Sequence(Request(0, _prompt(60), params, 0, granted), finish_reason=reason)
    with pytest.raises(RequestError, match="outgrew the 64 tokens") if outgrown else nullcontext():
        LIMITS.check_answer(sequence)


def test_an_open_answer_may_end_with_the_models_length() -> None:
    request = Request(0, _prompt(30), SamplingParams(max_tokens=None), 0, 10)
    done = Sequence(request, finish_reason=FinishReason.LENGTH)
    Limits(max_model_len=40, kv_tokens=39, vocab_size=50).check_answer(done)


@QUIET
@given(
    st.builds(Limits, st.integers(2, 60), st.integers(1, 60), st.just(50)),
    st.integers(1, 70),
    st.none() | st.integers(1, 70),
)
def test_what_is_granted_always_fits(limits: Limits, length: int, asked: int | None) -> None:
    try:
        granted = limits.max_tokens(_prompt(length), asked)
    except RequestError:
        return
    assert granted >= 1
    assert asked is None or granted <= asked
    assert length + granted <= limits.max_model_len
    assert length + granted - 1 <= limits.kv_tokens
    if asked is not None:  # an explicit wish is only ever cut by the model's own length
        assert granted == min(asked, limits.max_model_len - length)
