"""Text of answers: right is what transformers decodes of the whole, without that of the prompt."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import LlamaTokenizerFast, PreTrainedTokenizerFast

from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import FinishReason, Request, Sequence, TokenLogprobs
from glinthawk.jobs.detokenize import UNFINISHED
from glinthawk.jobs.growing_text import GrowingText
from glinthawk.jobs.lines import Task
from glinthawk.jobs.prompts import Prompt
from glinthawk.jobs.results import answer_line, answer_text
from glinthawk.jobs.text import Text

_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_LETTERS = [*"abcdefhilnoprstPw.,:\n", "\u2581"]
_MERGES = [("\u2581", "\u2581"), ("t", "h"), ("\u2581", "th"), ("\u2581th", "e"), ("\u2581", "P")]
_SPACES = [("\u2581\u2581", "\u2581\u2581")]
_SPECIAL = ["<|im_end|>", "<|im_start|>"]


def _vocab() -> dict[str, int]:
    merged = ["".join(pair) for pair in _MERGES + _SPACES]
    return {
        piece: i for i, piece in enumerate(["<unk>", "<s>", "</s>", *_BYTES, *_LETTERS, *merged])
    }


def _model() -> models.BPE:
    return models.BPE(
        vocab=_vocab(),
        merges=_MERGES + _SPACES,
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )


def _finished(backend: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, extra_special_tokens=_SPECIAL, **special
    )


def _prepending() -> PreTrainedTokenizerFast:
    """As the tokenizer.json of Llama 2, Mistral 7B and TinyLlama."""
    backend = Tokenizer(_model())
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    strip = decoders.Strip(" ", 1, 0)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    )
    return _finished(backend, bos_token="<s>", eos_token="</s>")


def _metaspace() -> PreTrainedTokenizerFast:
    """Spaces of the whole first token are swallowed, not one."""
    backend = Tokenizer(_model())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    return _finished(backend, bos_token="<s>", eos_token="</s>")


def _llama() -> LlamaTokenizerFast:
    merges = [(one, other) for one, other in _MERGES + _SPACES]
    return LlamaTokenizerFast(vocab=_vocab(), merges=merges, extra_special_tokens=_SPECIAL)


def _byte_level() -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return _finished(backend, eos_token="</s>")


def _word_piece() -> PreTrainedTokenizerFast:
    words = ["[UNK]", *"abcdefhilnoprst.,:", "the", "##e", "##s", "##the", "##a"]
    backend = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece(cleanup=False)
    return _finished(backend)


_ALL: dict[str, Callable[[], Any]] = {
    "prepend": _prepending,
    "metaspace": _metaspace,
    "llama": _llama,
    "byte-level": _byte_level,
    "word-piece": _word_piece,
}
_MADE: dict[str, Any] = {}


def _made(kind: str) -> Any:
    if kind not in _MADE:
        _MADE[kind] = _ALL[kind]()
    return _MADE[kind]


def _truth(tokenizer: Any, prompt: list[int], output: list[int]) -> str:
    def decode(ids: list[int]) -> str:
        return str(
            tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    whole, known = decode([*prompt, *output]), decode(prompt)
    assert whole.startswith(known)
    return whole[len(known) :]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _sequence(prompt: list[int], output: list[int], **params: Any) -> Sequence:
    request = Request(0, tuple(prompt), SamplingParams(**params), 0, 1000)
    sequence = Sequence(request, output=output, finish_reason=FinishReason.LENGTH)
    sequence.logprobs = [TokenLogprobs(token, -0.5, 1, ((token, -0.5),)) for token in output]
    return sequence


def _logprobs(text: Text, sequence: Sequence, kind: Any) -> Any:
    prompt = Prompt(sequence.request.prompt, 1000)
    task = Task(0, "a", kind, "m", (prompt,), SamplingParams(logprobs=1))
    result = json.loads(answer_line(task, [sequence], text, 0))
    return result["response"]["body"]["choices"][0]["logprobs"]


_PARTS = st.lists(
    st.sampled_from(
        ["the", " the", " ", "  ", "    ", "P", " Paris.", "é", "🙂", "\n", "a:", "<|im_end|>"]
    ),
    max_size=10,
).map("".join)


@pytest.mark.parametrize("kind", _ALL)
@settings(max_examples=60, deadline=None)
@given(words=_PARTS, cut=st.integers(0, 60))
@example(words="the the Paris.", cut=4)
@example(words="def\n    a", cut=5)
@example(words="the the the the the the the the a    a", cut=25)
@example(words="    a", cut=0)
@example(words="a <|im_end|>" + "🙂" * 9 + " the 🙂🙂", cut=1)
def test_an_answer_is_the_whole_without_the_prompt(kind: str, words: str, cut: int) -> None:
    tokenizer = _made(kind)
    text, ids = Text(tokenizer), _ids(tokenizer, words)
    prompt, output = ids[:cut], ids[cut:]
    try:
        truth = _truth(tokenizer, prompt, output)
    except AssertionError:
        return  # the cut is inside a character: transformers has no answer of its own
    sequence = _sequence(prompt, output)
    assert answer_text(text, sequence) == truth
    pieces = text.token_pieces(prompt, output)
    assert "".join(pieces) == truth
    logprobs = _logprobs(text, sequence, "completion")
    for piece, offset in zip(pieces, logprobs["text_offset"], strict=True):
        assert truth[offset:].startswith(piece)
    shown = [
        entry["bytes"]
        for token, entry in zip(output, _logprobs(text, sequence, "chat")["content"], strict=True)
        if not text.is_special(token)
    ]
    assert bytes(byte for one in shown for byte in one).decode() == truth


@pytest.mark.parametrize("kind", _ALL)
@settings(max_examples=40, deadline=None)
@given(
    words=_PARTS,
    cut=st.integers(0, 9),
    stop=st.sampled_from([(), (" Paris.",), ("a<|im_end|>", "e  ")]),
    is_kept=st.booleans(),
    hides=st.booleans(),
)
@example(
    words="the " * 40 + "🙂" * 9 + " Paris.", cut=1, stop=(" Paris.",), is_kept=False, hides=True
)
def test_what_is_shown_of_an_answer_is_not_taken_back(
    kind: str, words: str, cut: int, stop: tuple[str, ...], is_kept: bool, hides: bool
) -> None:
    tokenizer = _made(kind)
    text, ids = Text(tokenizer), _ids(tokenizer, words)
    rules = {"stop": stop, "include_stop_str_in_output": is_kept, "skip_special_tokens": hides}
    whole = _sequence(ids[:cut], ids[cut:], **rules)
    growing, shown, end = GrowingText(whole.request, text), [""], 0
    for end in range(1, len(whole.output) + 1):
        if text.find_stop(ids[:cut], whole.output[:end], whole.request.params):
            break
        shown.append(growing.read(whole.output[:end]))
    final = answer_text(text, _sequence(ids[:cut], whole.output[:end], **rules))
    for before, after in pairwise([*shown, final]):
        assert after.startswith(before)
    if end and not stop and not final.endswith(UNFINISHED):
        assert shown[-1] == final


@pytest.mark.parametrize("kind", ["prepend", "metaspace", "llama"])
def test_the_first_space_of_an_answer_stays(kind: str) -> None:
    tokenizer = _made(kind)
    text, ids = Text(tokenizer), _ids(tokenizer, "is Paris.")
    split = len(_ids(tokenizer, "is"))
    assert answer_text(text, _sequence(ids[:split], ids[split:])) == " Paris."
    assert text.find_stop(ids[:split], ids[split:], SamplingParams(stop=[" Paris."]))
    stopped = _sequence(ids[:split], ids[split:], stop=[" Paris"])
    assert answer_text(text, stopped) == ""


def test_a_token_of_two_spaces_is_two_spaces() -> None:
    tokenizer = _made("prepend")
    text, token = Text(tokenizer), _vocab()["\u2581\u2581"]
    assert text.token_text(token) == "  "
    prompt, output = _ids(tokenizer, "a"), [token, _vocab()["a"]]
    logprobs = _logprobs(text, _sequence(prompt, output), "completion")
    assert (logprobs["tokens"], logprobs["text_offset"]) == (["  ", "a"], [0, 2])


@pytest.mark.parametrize("kind", ["prepend", "byte-level"])
def test_the_tokens_of_an_emoji_stand_at_one_place(kind: str) -> None:
    tokenizer = _made(kind)
    text, prompt = Text(tokenizer), _ids(tokenizer, "the")
    output = _ids(tokenizer, "the🙂a")[len(prompt) :]
    sequence = _sequence(prompt, output)
    logprobs = _logprobs(text, sequence, "completion")
    assert logprobs["tokens"] == ["", "", "", "🙂", "a"]
    assert logprobs["text_offset"] == [0, 0, 0, 0, 1]
    content = _logprobs(text, sequence, "chat")["content"]
    assert [entry["bytes"] for entry in content] == [[0xF0], [0x9F], [0x99], [0x82], [ord("a")]]
    assert text.token_name(output[0]) == "bytes:\\xf0"


@pytest.mark.parametrize("kind", ["llama", "byte-level"])
@pytest.mark.parametrize(
    ("said", "stop", "kept"),
    [
        ("the a<|im_end|>", "<|im_end|>", "the a"),
        ("the a\n<|im_end|>", "\n<|im_end|>", "the a"),
        ("the a<|im_end|>\n", "<|im_end|>\n", "the a"),
        ("<|im_start|>a<|im_end|> <|im_end|>\n", "<|im_end|>\n", "a "),
        ("the a", "the", ""),
    ],
)
def test_a_special_token_ends_an_answer(kind: str, said: str, stop: str, kept: str) -> None:
    tokenizer = _made(kind)
    text = Text(tokenizer)
    prompt = _ids(tokenizer, "a\n")
    output = _ids(tokenizer, "a\n" + said)[len(prompt) :]
    params = SamplingParams(stop=[stop])
    ends = [
        end for end in range(1, len(output) + 1) if text.find_stop(prompt, output[:end], params)
    ]
    whole = output[: ends[0]]
    assert text.final_text(prompt, whole, params) == kept
    if said.endswith(stop):
        assert ends == [len(output)]
        # It may be the token that ends answers as well.
        assert text.final_text(prompt, whole, params, drop_last=stop.endswith("|>")) == kept


def test_min_tokens_outlast_a_special_token() -> None:
    tokenizer = _made("byte-level")
    text, output = Text(tokenizer), _ids(tokenizer, "a<|im_end|>b<|im_end|>")
    params = SamplingParams(stop=["<|im_end|>"], min_tokens=2)
    ends = [end for end in range(1, 5) if text.find_stop([], output[:end], params)]
    assert ends == [4]
    assert text.final_text([], output, params) == "ab"


_STOPS = st.lists(
    st.sampled_from([" the", " ", "  ", "the", "a:", "🙂", "\n", "<|im_end|>", "a<|im_end|>"]),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("kind", ["prepend", "metaspace", "llama", "byte-level"])
@settings(max_examples=60, deadline=None)
@given(words=_PARTS, cut=st.integers(0, 20), stops=_STOPS, min_tokens=st.integers(0, 4))
@example(words="a    a", cut=1, stops=["  "], min_tokens=0)
@example(words="the the", cut=2, stops=[" the"], min_tokens=0)
def test_the_cheap_look_finds_what_a_look_at_everything_finds(
    kind: str, words: str, cut: int, stops: list[str], min_tokens: int
) -> None:
    tokenizer = _made(kind)
    text, ids = Text(tokenizer), _ids(tokenizer, words)
    prompt, output = ids[:cut], ids[cut:]
    params = SamplingParams(stop=stops, min_tokens=min_tokens, max_tokens=None)
    for end in range(1, len(output) + 1):
        whole = text.answer(prompt, output[:end])
        stopped = text.final_text(prompt, output[:end], params)
        found = text.find_stop(prompt, output[:end], params)
        if "<|im_end|>" not in "".join(stops):
            immune = len(text.answer(prompt, output[:min_tokens]))
            starts = [whole.find(one, max(0, immune - len(one) + 1)) for one in stops]
            assert found == any(start >= 0 for start in starts)
        if found:
            assert whole.startswith(stopped)
            return
        assert stopped == whole
