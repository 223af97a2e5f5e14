"""Masks of structured outputs, against what llguidance itself allows, and in batches."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from llguidance import LLMatcher, LLTokenizer, grammar_from
from llguidance.hf import from_tokenizer

from glinthawk.core.batch import Batch, Span
from glinthawk.core.errors import ModelError
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.core.source import resolve_model
from glinthawk.core.structured_outputs import StructuredOutputsParams
from glinthawk.tier1.sampler import Sampled, sample_batch
from glinthawk.tier1.sampling import kernels
from glinthawk.tier1.sampling.sampling_reference import choose
from glinthawk.tier1.sampling.token_masks import TokenMasks
from glinthawk.tokens.grammars import Grammars
from glinthawk.tokens.tokenizer import load_tokenizer

VOCAB = 4096
EOS = frozenset({0, 4})
SPACES = r"[ \t]{1,40}|\r?\n[ \t]{0,40}"
SCHEMA = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'
WANTED = [
    StructuredOutputsParams(json=SCHEMA),
    StructuredOutputsParams(json_object=True),
    StructuredOutputsParams(regex=r"[a-z]+ [0-9]{2,}"),
    StructuredOutputsParams(choice=["yes", "no", "\u00e9\u65e5"]),
    StructuredOutputsParams(grammar='root ::= "(" root ")" | "x"'),
]
KINDS = [wanted.kind for wanted in WANTED]


@cache
def _tokenizer() -> Any:
    return load_tokenizer(resolve_model("demo"))


@cache
def _vocabulary() -> LLTokenizer:
    return from_tokenizer(_tokenizer(), eos_token=sorted(EOS))


def _masks() -> TokenMasks:
    return TokenMasks(lambda: Grammars(_tokenizer()))


def _sequence(wanted: StructuredOutputsParams | None, seed: int = 0, **params: Any) -> Sequence:
    eos = frozenset() if params.get("ignore_eos") else EOS
    rules = SamplingParams(max_tokens=None, structured_outputs=wanted, **params)
    return Sequence(Request(0, (1, 2), rules, seed, 99, eos))


def _sample(sequences: list[Sequence], logits: torch.Tensor, masks: TokenMasks) -> list[Sampled]:
    spans = tuple(Span(s, home=0, start=s.length - 1, length=1) for s in sequences)
    return [token for (token,) in sample_batch(Batch(0, spans, ()), logits, masks)]


def _logits(rows: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed))


def _allowed(masks: TokenMasks, sequences: list[Sequence], vocab_size: int = VOCAB) -> Any:
    """(S, V): whether a token may come."""
    return _unpack(masks.allowed(sequences), vocab_size)


def _unpack(bits: Any, vocab_size: int = VOCAB) -> Any:
    flags = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")[:, :vocab_size] > 0
    return np.pad(flags, ((0, 0), (0, vocab_size - flags.shape[1])))


def _own_matcher(wanted: StructuredOutputsParams, output: list[int]) -> LLMatcher:
    """As llguidance's own documentation makes one."""
    text = {
        "json": wanted.json,
        "json_object": '{"type": "object"}',
        "regex": wanted.regex,
        "grammar": wanted.grammar,
        "choice": '["yes", "no", "\u00e9\u65e5"]',
    }[wanted.kind]
    kind: Any = "json" if wanted.kind == "json_object" else wanted.kind
    assert isinstance(text, str)
    if kind == "json":
        return _follow(
            LLMatcher.grammar_from_json_schema(
                text, {"whitespace_pattern": SPACES, "json_allowed_escapes": r'"\bfnrt'}
            ),
            output,
        )
    return _follow(grammar_from(kind, text), output)


def _follow(grammar: str, output: list[int]) -> LLMatcher:
    matcher = LLMatcher(_vocabulary(), grammar)
    assert matcher.consume_tokens(output)
    return matcher


@pytest.mark.parametrize("wanted", WANTED, ids=KINDS)
def test_a_mask_is_what_llguidance_allows(wanted: StructuredOutputsParams) -> None:
    masks, sequence = _masks(), _sequence(wanted)
    for step in range(12):
        (allowed,) = _allowed(masks, [sequence])
        bias = _own_matcher(wanted, sequence.output).compute_logit_bias()
        assert np.array_equal(allowed, np.frombuffer(bias, np.uint8) > 0)
        (sampled,) = _sample([sequence], _logits(1, step), masks)
        assert allowed[sampled.token]
        if sampled.token in EOS:
            break
        sequence.output.append(sampled.token)


def test_a_state_that_is_rebuilt_is_the_one_that_was_advanced() -> None:
    masks = _masks()
    sequences = [_sequence(wanted, seed) for seed in range(3) for wanted in WANTED]
    for step in range(10):
        for sequence, one in zip(
            sequences, _sample(sequences, _logits(len(sequences), step), masks), strict=True
        ):
            sequence.output.append(one.token)
        again = [Sequence(s.request, output=list(s.output)) for s in sequences]
        advanced = _allowed(masks, sequences)
        assert np.array_equal(_allowed(masks, again), advanced)
        assert np.array_equal(_allowed(_masks(), again), advanced)


def test_a_row_depends_on_itself_alone() -> None:
    sequences = [_sequence(wanted, seed) for seed in range(4) for wanted in (*WANTED, None)]
    logits = _logits(len(sequences))
    together = _sample(sequences, logits, _masks())
    alone = [_sample([s], logits[i : i + 1], _masks())[0] for i, s in enumerate(sequences)]
    assert together == alone


@pytest.mark.parametrize("by_torch", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masked_rows_are_drawn_from_as_if_the_rest_were_impossible(
    dtype: torch.dtype, by_torch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glinthawk.tier1 import sampler
    from glinthawk.tier1.sampling import ranking

    if by_torch:
        for module in (sampler, ranking, kernels):
            monkeypatch.setattr(module, "has_kernel", lambda logits: False)
    rules: list[dict[str, Any]] = [
        {},
        {"temperature": 0},
        {"top_k": 3, "top_p": 0.9},
        {"logit_bias": {81: 5.0, 5: -50}, "repetition_penalty": 1.3},
        {"min_tokens": 3, "presence_penalty": 1.0},
    ]
    sequences = [
        _sequence(wanted, seed, **rule)
        for seed, rule in enumerate(rules)
        for wanted in (None, *WANTED)
    ]
    logits = _logits(len(sequences)).to(dtype)
    before = logits.clone()
    bound = [row for row, s in enumerate(sequences) if s.request.params.structured_outputs]
    allowed = _allowed(_masks(), [sequences[row] for row in bound])
    masked = logits.float().clone()
    masked[bound] = masked[bound].masked_fill(torch.from_numpy(~allowed), float("-inf"))
    expected = [choose(s, row) for s, row in zip(sequences, masked, strict=True)]
    assert [one.token for one in _sample(sequences, logits, _masks())] == expected
    assert torch.equal(logits, before)


def test_logprobs_stay_the_models_own() -> None:
    logits = _logits(1)
    (sampled,) = _sample([_sequence(WANTED[0], logprobs=2)], logits, _masks())
    own = torch.log_softmax(logits[0], dim=-1)
    assert sampled.logprobs is not None
    assert sampled.logprobs.logprob == pytest.approx(float(own[sampled.token]), abs=1e-5)
    assert [token for token, _ in sampled.logprobs.top] == own.topk(2).indices.tolist()


@pytest.mark.parametrize("params", [{}, {"ignore_eos": True}, {"min_tokens": 9}])
def test_what_is_complete_can_only_end(params: dict[str, Any]) -> None:
    masks = _masks()
    sequence = _sequence(StructuredOutputsParams(choice=["yes"]), **params)
    for step in range(9):
        (sampled,) = _sample([sequence], _logits(1, step), masks)
        sequence.output.append(sampled.token)
    text = _tokenizer().decode(sequence.output, skip_special_tokens=True)
    assert text == "yes"
    assert set(sequence.output[-5:]) <= EOS


def test_the_end_is_banned_where_more_may_come() -> None:
    masks = _masks()
    for seed in range(30):
        sequence = _sequence(StructuredOutputsParams(regex="a*"), seed, min_tokens=3)
        (sampled,) = _sample([sequence], _logits(1, seed), masks)
        assert sampled.token not in EOS


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_row_without_a_distribution_keeps_to_its_grammar(value: float) -> None:
    sequence = _sequence(StructuredOutputsParams(choice=["yes"]))
    (allowed,) = _allowed(_masks(), [sequence])
    (sampled,) = _sample([sequence], torch.full((1, VOCAB), value), _masks())
    assert allowed[sampled.token]


def test_an_answer_that_cannot_be_followed_does_not_stop(caplog: pytest.LogCaptureFixture) -> None:
    masks, sequence = _masks(), _sequence(StructuredOutputsParams(choice=["yes"]))
    sequence.output.append(9)
    for _ in range(2):
        (allowed,) = _allowed(masks, [sequence])
        assert set(np.flatnonzero(~allowed).tolist()) == EOS
        sequence.output.append(10)
    assert caplog.text.count("cannot be followed") == 1


@pytest.mark.parametrize("vocab_size", [4000, 4096, 4100, 5000])
def test_vocabularies_of_model_and_tokenizer_may_differ(vocab_size: int) -> None:
    sequence = _sequence(WANTED[0])
    (allowed,) = _allowed(_masks(), [sequence], vocab_size)
    (whole,) = _allowed(_masks(), [sequence])
    assert len(allowed) == vocab_size
    assert np.array_equal(allowed[:VOCAB], whole[:vocab_size])
    assert not allowed[VOCAB:].any()


def test_a_node_without_the_tokenizer_says_so() -> None:
    masks = TokenMasks(lambda: Grammars(None))
    with pytest.raises(ModelError, match=r"no tokenizer files.*last node"):
        _sample([_sequence(WANTED[0])], _logits(1), masks)


def test_no_grammar_is_made_for_rows_without_a_constraint() -> None:
    def load() -> Grammars:
        raise AssertionError

    _sample([_sequence(None)], _logits(1), TokenMasks(load))


@pytest.mark.parametrize(
    ("text", "fits", "fits_compact"),
    [
        ('{"a":1}', True, True),
        ('{"a": 1}', True, False),
        ('{\n    "a": 1\n}', True, False),
        ('{\r\n\t"a":1\r\n}', True, False),
        ('{\n\n"a":1}', False, False),
        ('{"a":' + 41 * " " + "1}", False, False),
    ],
)
def test_json_has_few_spaces_or_none(text: str, fits: bool, fits_compact: bool) -> None:
    ids = _tokenizer().encode(text, add_special_tokens=False)
    for is_compact, expected in ((False, fits), (True, fits_compact)):
        wanted = StructuredOutputsParams(json=SCHEMA, disable_any_whitespace=is_compact)
        matcher = Grammars(_tokenizer()).matcher(wanted)
        assert (matcher.try_consume_tokens(ids) == len(ids)) == expected
