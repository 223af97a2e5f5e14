"""The Python face, with the demo model."""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from glinthawk import LLM, SamplingParams
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import RequestError, UsageError
from glinthawk.core.setting import list_settings
from glinthawk.core.vllm_settings import VLLM_SETTINGS, explain_unknown
from glinthawk.jobs.text import Text

GREEDY = SamplingParams(temperature=0, max_tokens=12)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("demo", tier1_kv="64MiB", batch_size=16) as llm:
        yield llm


def test_answers_come_in_the_order_of_the_prompts(llm: LLM) -> None:
    prompts = ["The list type is", {"prompt_token_ids": [5, 6, 7]}, {"prompt": "Return a"}]
    outputs = llm.generate(prompts, GREEDY, use_tqdm=False)
    assert [output.prompt for output in outputs] == ["The list type is", None, "Return a"]
    assert outputs[1].prompt_token_ids == [5, 6, 7]
    alone = [llm.generate(prompt, GREEDY, use_tqdm=False)[0] for prompt in prompts]
    assert [output.outputs for output in outputs] == [output.outputs for output in alone]


def test_prompts_are_scored_as_in_vllm(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=3, n=2, prompt_logprobs=2, logprobs=0)
    output, plain = llm.generate(["The list type"] * 2, [params, GREEDY], use_tqdm=False)
    assert output.prompt_logprobs is not None
    assert plain.prompt_logprobs is None
    first, *others = output.prompt_logprobs
    assert first is None
    for token, entries in zip(output.prompt_token_ids[1:], others, strict=True):
        assert next(iter(entries)) == token
        assert {1, 2} <= {entry.rank for entry in entries.values()}
        assert len(entries) == (3 if entries[token].rank > 2 else 2)
        assert entries[token].logprob <= max(entry.logprob for entry in entries.values())
        assert entries[token].decoded_token
    one, two = output.outputs
    assert one.logprobs is not None
    said = zip(one.token_ids, one.logprobs, strict=True)
    assert one.cumulative_logprob == sum(entries[token].logprob for token, entries in said)
    assert one.cumulative_logprob == two.cumulative_logprob
    assert plain.outputs[0].cumulative_logprob is None


def test_a_prompt_alone_is_scored_as_its_answer_was(llm: LLM) -> None:
    """The answer's own log-probabilities are those that its tokens have in a prompt."""
    greedy = SamplingParams(temperature=0, max_tokens=6, logprobs=0, ignore_eos=True)
    (answer,) = llm.generate("Return the", greedy, use_tqdm=False)
    tokens = [*answer.prompt_token_ids, *answer.outputs[0].token_ids]
    only = SamplingParams(max_tokens=0, prompt_logprobs=0)
    (scored,) = llm.generate(tokens, only, use_tqdm=False)
    assert scored.outputs[0].token_ids == []
    assert scored.prompt_logprobs is not None
    assert answer.outputs[0].logprobs is not None
    pairs = zip(scored.prompt_logprobs[-6:], answer.outputs[0].logprobs, strict=True)
    for entries, said in pairs:
        ((token, truth),) = said.items()
        assert entries is not None
        assert entries[token].rank == truth.rank == 1
        assert entries[token].decoded_token == truth.decoded_token
        assert entries[token].logprob == pytest.approx(truth.logprob, abs=0.05)


def test_token_ids_are_prompts_too(llm: LLM) -> None:
    named = llm.generate({"prompt_token_ids": [5, 6, 7]}, GREEDY, use_tqdm=False)
    for prompts in ([[5, 6, 7]], [5, 6, 7], (5, 6, 7), [(5, 6, 7)]):
        outputs = llm.generate(prompts, GREEDY, use_tqdm=False)
        assert [output.outputs for output in outputs] == [named[0].outputs]
        assert outputs[0].prompt_token_ids == [5, 6, 7]


@pytest.mark.parametrize(
    "prompt", [None, 3.5, [5, "six"], {}, {"prompt": 5}, {"prompt_token_ids": "5"}, [True]]
)
def test_what_is_no_prompt_is_named(llm: LLM, prompt: object) -> None:
    with pytest.raises(RequestError, match="a prompt is text, a list of token ids"):
        llm.generate(["The", prompt], GREEDY, use_tqdm=False)  # type: ignore[list-item]


def test_a_conversation_is_answered(llm: LLM) -> None:
    said = [{"role": "user", "content": "What is a dictionary?"}]
    (output,) = llm.chat(said, GREEDY, use_tqdm=False)
    two = llm.chat([said, said], GREEDY, use_tqdm=False)
    assert output.outputs[0].text
    assert [other.outputs for other in two] == [output.outputs] * 2


def test_a_sampled_answer_does_not_depend_on_what_runs_beside_it(llm: LLM) -> None:
    sampled = SamplingParams(temperature=0.9, top_p=0.95, seed=3, max_tokens=16)
    others = [SamplingParams(temperature=1.5, seed=i, max_tokens=16) for i in range(9)]
    (alone,) = llm.generate("Return the", sampled, use_tqdm=False)
    beside = llm.generate(["Return the"] * 10, [*others, sampled], use_tqdm=False)
    assert beside[-1].outputs == alone.outputs
    assert len({output.outputs[0].text for output in beside}) > 5


def test_one_seed_on_every_prompt_gives_independent_answers(llm: LLM) -> None:
    """Where all tokens are nearly as likely, the answers are the random numbers."""
    sampled = SamplingParams(temperature=50, seed=42, max_tokens=8)
    prompts = [{"prompt_token_ids": [5 + i, 6, 7]} for i in range(40)]
    outputs = llm.generate(prompts, sampled, use_tqdm=False)
    assert len({tuple(output.outputs[0].token_ids) for output in outputs}) == 40
    assert len({output.outputs[0].token_ids[0] for output in outputs}) > 35
    again = llm.generate(prompts[::-1], sampled, use_tqdm=False)
    assert [output.outputs for output in again[::-1]] == [output.outputs for output in outputs]


def test_choices_of_one_prompt_differ_and_repeat(llm: LLM) -> None:
    params = SamplingParams(n=3, temperature=1.0, seed=1, max_tokens=12)
    first, again = (llm.generate("The", params, use_tqdm=False)[0].outputs for _ in range(2))
    assert [choice.index for choice in first] == [0, 1, 2]
    assert len({choice.text for choice in first}) == 3
    assert first == again


def test_a_stop_string_is_cut_off_and_ends_the_answer(llm: LLM) -> None:
    (whole,) = llm.generate("The list type is", GREEDY, use_tqdm=False)
    text = whole.outputs[0].text
    stop = text[len(text) // 2 :][:3]
    params = SamplingParams(temperature=0, max_tokens=12, stop=stop)
    (cut,) = llm.generate("The list type is", params, use_tqdm=False)
    assert cut.outputs[0].text == text[: text.index(stop)]
    assert cut.outputs[0].finish_reason == "stop"
    assert len(cut.outputs[0].token_ids) < len(whole.outputs[0].token_ids)


def test_a_special_token_can_be_a_stop_string(llm: LLM) -> None:
    tokenizer = llm.get_tokenizer()
    special, token = tokenizer.eos_token, tokenizer.eos_token_id
    wish = {"temperature": 0, "max_tokens": 12, "ignore_eos": True, "logit_bias": {token: 100.0}}
    for min_tokens in (0, 3):
        params = SamplingParams(stop=special, min_tokens=min_tokens, **wish)
        answer = llm.generate("The", params, use_tqdm=False)[0].outputs[0]
        assert (answer.text, answer.finish_reason) == ("", "stop")
        assert answer.token_ids == [token] * (min_tokens + 1)


def test_a_template_that_reads_parts_gets_them(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = llm.get_tokenizer()
    monkeypatch.setattr(tokenizer, "chat_template", "{{ messages[0].content[0].text }}")
    monkeypatch.setattr(llm, "_opened", replace(llm._model, text=Text(tokenizer)))
    for content in ("Return", [{"type": "text", "text": "Return"}]):
        (output,) = llm.chat([{"role": "user", "content": content}], GREEDY, use_tqdm=False)
        assert tokenizer.decode(output.prompt_token_ids) == "Return"
    monkeypatch.setattr(tokenizer, "chat_template", "{{ messages[0].text }}")
    monkeypatch.setattr(llm, "_opened", replace(llm._model, text=Text(tokenizer)))
    with pytest.raises(RequestError, match="neither as a string"):
        llm.chat([{"role": "user", "content": "Return"}], GREEDY, use_tqdm=False)


def test_logprobs_name_the_chosen_token_and_its_rivals(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=4, logprobs=3)
    (output,) = llm.generate("The list type is", params, use_tqdm=False)
    answer = output.outputs[0]
    assert answer.logprobs is not None
    for token, at in zip(answer.token_ids, answer.logprobs, strict=True):
        assert next(iter(at)) == token
        assert [entry.rank for entry in at.values()] == [1, 2, 3]
        values = [entry.logprob for entry in at.values()]
        assert values == sorted(values, reverse=True)


def test_a_rank_counts_all_tokens(llm: LLM) -> None:
    """That of a token which was not among the likeliest, too."""
    forced = SamplingParams(max_tokens=3, logprobs=2, allowed_token_ids=[5], ignore_eos=True)
    (output,) = llm.generate("The list type is", forced, use_tqdm=False)
    logprobs = output.outputs[0].logprobs
    assert logprobs is not None
    tokens = [*output.prompt_token_ids, 5, 5, 5]
    only = SamplingParams(max_tokens=0, prompt_logprobs=2)
    (scored,) = llm.generate(tokens, only, use_tqdm=False)
    assert scored.prompt_logprobs is not None
    for said, entries in zip(logprobs, scored.prompt_logprobs[-3:], strict=True):
        assert entries is not None
        assert said[5].rank == entries[5].rank > 2
        assert list(said) == list(entries)


def test_what_has_stopped_an_answer_is_told(llm: LLM) -> None:
    (whole,) = llm.generate("The list type is", GREEDY, use_tqdm=False)
    token, word = whole.outputs[0].token_ids[4], whole.outputs[0].text.split()[1]
    wishes = [{"stop_token_ids": [token]}, {"stop": [word, "@@"]}, {}]
    params = [SamplingParams(temperature=0, max_tokens=12, **wish) for wish in wishes]
    outputs = llm.generate(["The list type is"] * 3, params, use_tqdm=False)
    assert [output.outputs[0].stop_reason for output in outputs] == [token, word, None]
    end = llm.get_tokenizer().eos_token_id
    ended = SamplingParams(max_tokens=4, allowed_token_ids=[end], stop_token_ids=[end])
    (output,) = llm.generate("The", ended, use_tqdm=False)
    assert (output.outputs[0].finish_reason, output.outputs[0].stop_reason) == ("stop", None)


def test_an_answer_need_not_become_text(llm: LLM) -> None:
    silent = SamplingParams(temperature=0, max_tokens=12, detokenize=False)
    plain, quiet = llm.generate(["The list type is"] * 2, [GREEDY, silent], use_tqdm=False)
    assert quiet.outputs[0].text == ""
    assert quiet.outputs[0].token_ids == plain.outputs[0].token_ids


def test_a_prompt_of_the_whole_length_is_scored(llm: LLM) -> None:
    prompt = [5 + i % 90 for i in range(1024)]
    only = SamplingParams(max_tokens=0, prompt_logprobs=0)
    (whole,) = llm.generate({"prompt_token_ids": prompt}, only, use_tqdm=False)
    (shorter,) = llm.generate({"prompt_token_ids": prompt[:-1]}, only, use_tqdm=False)
    assert whole.prompt_logprobs is not None and shorter.prompt_logprobs is not None
    assert len(whole.prompt_logprobs) == 1024
    for one, other in zip(whole.prompt_logprobs[1:], shorter.prompt_logprobs[1:], strict=False):
        assert one is not None and other is not None
        assert [*one] == [*other]
    for prompt_too_long, params in (([*prompt, 5], only), (prompt, GREEDY)):
        with pytest.raises(RequestError, match="1024"):
            llm.generate({"prompt_token_ids": prompt_too_long}, params, use_tqdm=False)


def test_a_prompt_that_cannot_be_answered_is_refused_before_any_runs(llm: LLM) -> None:
    with pytest.raises(RequestError, match="1024"):
        llm.generate(["The", {"prompt_token_ids": [5] * 3000}], GREEDY, use_tqdm=False)
    with pytest.raises(RequestError, match="vocabulary"):
        llm.generate({"prompt_token_ids": [10**6]}, GREEDY, use_tqdm=False)


def test_two_tiers_answer_as_one_and_leave_no_process(llm: LLM) -> None:
    prompts = [f"Number {i} is" for i in range(12)]
    expected = llm.generate(prompts, GREEDY, use_tqdm=False)
    with LLM("demo", tier2="local:2", worker_kv="16MiB", tier1_kv="1MiB") as two:
        outputs = two.generate(prompts, GREEDY, use_tqdm=False)
        assert len(two.stats.tier2_busy) == 2
    assert [o.outputs for o in outputs] == [o.outputs for o in expected]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tensor_parallel_size", "cluster='ray' and slices"),
        ("gpu_memory_utilization", "tier1_kv"),
        ("max_num_seqs", "use batch_size"),
        ("bach_size", "did you mean batch_size?"),
        ("flavour", r"help\(glinthawk.LLM\) lists its settings"),
    ],
)
def test_an_unknown_setting_is_told_what_does_its_work(name: str, says: str) -> None:
    with pytest.raises(TypeError, match=rf"^LLM\(\) got an unexpected .* '{name}': .*{says}"):
        LLM("demo", **{name: 2})


def test_what_vllm_calls_a_setting_leads_to_ours() -> None:
    """No setting of ours is explained away, and what is advised is there."""
    known = {one.name for one in list_settings(EngineConfig)}
    for name in VLLM_SETTINGS:
        assert name not in known
        advised = set(re.findall(r"\b[a-z0-9]+(?:_[a-z0-9]+)+\b", explain_unknown(name, known)))
        assert advised <= known


def test_its_tokenizer_can_be_had(llm: LLM) -> None:
    tokenizer = llm.get_tokenizer()
    (output,) = llm.generate("The list type is", GREEDY, use_tqdm=False)
    assert tokenizer.encode("The list type is") == output.prompt_token_ids


def test_use_after_close_says_so() -> None:
    with LLM("demo", tier1_kv="64MiB", batch_size=16) as llm:
        pass
    llm.close()
    for use in (lambda: llm.generate("The"), lambda: llm.chat([]), lambda: llm.stats):
        with pytest.raises(UsageError, match="this LLM is closed; make a new one"):
            use()


def test_chats_are_told_to_the_template_as_in_vllm(llm: LLM) -> None:
    said = [{"role": "user", "content": "What is a list?"}]
    begun = [*said, {"role": "assistant", "content": "A list is"}]
    (whole,) = llm.chat(
        begun,
        GREEDY,
        use_tqdm=False,
        add_generation_prompt=False,
        continue_final_message=True,
    )
    assert whole.outputs[0].text
    (plain,) = llm.chat(said, GREEDY, use_tqdm=False)
    assert whole.prompt_token_ids[: len(plain.prompt_token_ids)] == plain.prompt_token_ids
    with pytest.raises(RequestError, match="continue_final_message"):
        llm.chat(begun, GREEDY, use_tqdm=False, continue_final_message=True)


def test_no_parameters_are_those_of_the_model(llm: LLM) -> None:
    # The demo's file says nothing of sampling.
    assert llm.get_default_sampling_params() == SamplingParams()


def test_words_that_are_bad_and_tokens_that_are_allowed(llm: LLM) -> None:
    (free,) = llm.generate("The list type is", GREEDY, use_tqdm=False)
    word = free.outputs[0].text.split()[0]
    banned = SamplingParams(temperature=0, max_tokens=12, bad_words=[word])
    (other,) = llm.generate("The list type is", banned, use_tqdm=False)
    assert word not in other.outputs[0].text.split()
    ids = sorted(free.outputs[0].token_ids)[:2]
    only = SamplingParams(temperature=1, max_tokens=12, allowed_token_ids=ids, ignore_eos=True)
    (bound,) = llm.generate("The list type is", only, use_tqdm=False)
    assert set(bound.outputs[0].token_ids) <= set(ids)
    with pytest.raises(RequestError, match="allowed_token_ids"):
        llm.generate("a", SamplingParams(allowed_token_ids=[10**6]), use_tqdm=False)


def test_the_end_of_a_prompt_is_kept(llm: LLM) -> None:
    cut = SamplingParams(temperature=0, max_tokens=12, truncate_prompt_tokens=3)
    (long,) = llm.generate([[9, 9, 9, 5, 6, 7]], cut, use_tqdm=False)
    (short,) = llm.generate([[5, 6, 7]], GREEDY, use_tqdm=False)
    assert long.outputs == short.outputs
    assert long.prompt_token_ids == [5, 6, 7]
