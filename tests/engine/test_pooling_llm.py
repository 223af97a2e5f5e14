"""Embeddings and scores from Python: as the model's own forward and its files say."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

from families import make_model, make_settings
from glinthawk import LLM, PoolingParams, RequestError

_WORDS = ["no", "yes", "Judge", "Document", "Query", "Instruct", "the", "a", "cat", "dog", "sat"]
_MARKS = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
_PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_TASK = "Given a web search query, retrieve relevant passages that answer the query"
_KV = {"tier1_kv": "1MiB", "batch_tokens": 16}


def _tokenizer() -> PreTrainedTokenizerFast:
    """Of words; a text ends with </s>, as embedding models like it."""
    vocab = {word: number for number, word in enumerate([*_MARKS, *_WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="</s>",
        extra_special_tokens=_MARKS[3:],
    )


def _set(folder: Path, **others: Any) -> Path:
    """Fields of its config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | others))
    return folder


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_model(tmp_path_factory.mktemp("model"), "qwen3")
    _tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llm(qwen3: Path) -> Iterator[LLM]:
    with LLM(str(qwen3), **_KV) as llm:
        yield llm


def _states(folder: Path, ids: list[int]) -> torch.Tensor:
    own = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.inference_mode():
        return own.base_model(torch.tensor([ids])).last_hidden_state[0]


def _logits(folder: Path, ids: list[int]) -> torch.Tensor:
    own = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.inference_mode():
        return own(torch.tensor([ids])).logits[0, -1]


def _unit(vector: torch.Tensor) -> list[float]:
    return (vector / vector.norm()).tolist()


def test_the_last_token_to_length_one(llm: LLM, qwen3: Path) -> None:
    prompts = ["the cat sat", {"prompt": "a dog"}, [9, 10, 11], {"prompt_token_ids": [12]}]
    outputs = llm.embed(prompts, use_tqdm=False)
    assert [o.request_id for o in outputs] == ["0", "1", "2", "3"]
    assert [o.prompt_token_ids[-1] for o in outputs] == [2, 2, 11, 12]
    for output in outputs:
        truth = _unit(_states(qwen3, output.prompt_token_ids)[-1])
        assert output.outputs.embedding == pytest.approx(truth, abs=1e-4)
        assert output.outputs.hidden_size == len(truth)


def test_parameters_of_each(llm: LLM, qwen3: Path) -> None:
    few, raw, cut = (
        PoolingParams(dimensions=5),
        PoolingParams(use_activation=False),
        PoolingParams(truncate_prompt_tokens=2),
    )
    one, two, three = llm.embed(["the cat sat"] * 3, [few, raw, cut], use_tqdm=False)
    last = _states(qwen3, one.prompt_token_ids)[-1]
    assert one.outputs.embedding == pytest.approx(_unit(last[:5]), abs=1e-4)
    assert two.outputs.embedding == pytest.approx(last.tolist(), abs=1e-3)
    # The end that the tokenizer puts stays.
    assert three.prompt_token_ids == [one.prompt_token_ids[0], 2]
    with pytest.raises(ValueError, match="2 prompts but 1 pooling_params"):
        llm.embed(["a", "the"], [few])
    with pytest.raises(RequestError, match="dimensions must be from 1 to 64, not 65"):
        llm.embed("a", PoolingParams(dimensions=65))
    with pytest.raises(RequestError, match="a prompt is text"):
        llm.embed([["a"]])
    for bad in ({"dimensions": 0}, {"truncate_prompt_tokens": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must be"):
            PoolingParams(**bad)


def test_scores_are_cosines(llm: LLM, qwen3: Path) -> None:
    documents = ["a dog ran", "the cat sat"]
    first, second = llm.score("the cat sat", documents, use_tqdm=False)
    assert second.outputs.score == pytest.approx(1)
    vectors = [_states(qwen3, o.prompt_token_ids)[-1] for o in llm.embed(documents)]
    cosine = torch.nn.functional.cosine_similarity(vectors[0], vectors[1], dim=0)
    assert first.outputs.score == pytest.approx(float(cosine), abs=1e-4)
    assert len(first.prompt_token_ids) == 8
    pairs = llm.score(documents, documents[::-1], use_tqdm=False)
    assert [p.outputs.score for p in pairs] == pytest.approx([float(cosine)] * 2, abs=1e-4)
    with pytest.raises(RequestError, match="2 texts on one side and 3 on the other"):
        llm.score(documents, ["a"] * 3)
    with pytest.raises(RequestError, match="takes none"):
        llm.score("a", "the", instruction="Judge")


@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken", "plain", "new form"])
def test_sentence_transformers_say_how(qwen3: Path, tmp_path: Path, mode: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in qwen3.iterdir():
        (folder / path.name).symlink_to(path)
    kinds = ["Transformer", "Pooling", *([] if mode == "plain" else ["Normalize"])]
    modules = [
        {"idx": n, "path": f"{n}_{kind}" if n else "", "type": f"sentence_transformers.x.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    names = ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
    chosen = {"mean": "mean_tokens", "cls": "cls_token"}.get(mode, "lasttoken")
    told: dict[str, Any] = {f"pooling_mode_{name}": name == chosen for name in names}
    (folder / "1_Pooling").mkdir()
    told = {"pooling_mode": "mean"} if mode == "new form" else told
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(told))
    with LLM(str(folder), **_KV) as llm:
        (output,) = llm.embed("the cat sat on a mat", use_tqdm=False)
    states = _states(qwen3, output.prompt_token_ids)
    rows = {"mean": states.mean(0), "new form": states.mean(0), "cls": states[0]}
    vector = rows.get(mode, states[-1])
    truth = vector.tolist() if mode == "plain" else _unit(vector)
    assert output.outputs.embedding == pytest.approx(truth, abs=1e-3)


@pytest.mark.parametrize(
    ("kinds", "told", "word"),
    [
        (["Pooling", "Dense"], {"pooling_mode_mean_tokens": True}, "Dense"),
        (["Pooling"], {"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        (
            ["Pooling"],
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            "pooling_mode_mean_tokens and pooling_mode_cls_token",
        ),
    ],
)
def test_what_is_not_made_here_is_refused(
    qwen3: Path, tmp_path: Path, kinds: list[str], told: dict[str, bool], word: str
) -> None:
    for path in qwen3.iterdir():
        (tmp_path / path.name).symlink_to(path)
    modules = [{"path": kind, "type": f"sentence_transformers.models.{kind}"} for kind in kinds]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "Pooling").mkdir()
    (tmp_path / "Pooling" / "config.json").write_text(json.dumps(told))
    with LLM(str(tmp_path), **_KV) as llm, pytest.raises(RequestError, match=word):
        llm.embed("a")


def test_qwen3_reranker_is_asked_for_yes_and_no(llm: LLM, qwen3: Path) -> None:
    query, documents = "the cat", ["a dog ran", "the cat sat on the mat"]
    outputs = llm.score(query, documents, reranker="qwen3", use_tqdm=False)
    tokenizer = _tokenizer()
    for document, output in zip(documents, outputs, strict=True):
        told = f"{_PREFIX}<Instruct>: {_TASK}\n<Query>: {query}\n<Document>: {document}{_SUFFIX}"
        ids = tokenizer.encode(told, add_special_tokens=False)
        assert output.prompt_token_ids == ids
        no, yes = _logits(qwen3, ids)[tokenizer.convert_tokens_to_ids(["no", "yes"])]
        truth = torch.softmax(torch.stack([no, yes]).double(), dim=0)[1]
        assert output.outputs.score == pytest.approx(float(truth), abs=1e-4)
    raw = PoolingParams(use_activation=False)
    (logit,) = llm.score(query, documents[1], reranker="qwen3", pooling_params=raw)
    assert logit.outputs.score == pytest.approx(float(yes - no), abs=1e-3)


def test_who_puts_the_question_himself_is_not_asked_again(llm: LLM) -> None:
    first = f"{_PREFIX}<Instruct>: {_TASK}\n<Query>: the cat\n"
    (own,) = llm.score(first, f"<Document>: a dog{_SUFFIX}", reranker="qwen3", use_tqdm=False)
    assert sum(token == 3 for token in own.prompt_token_ids) == 3  # <|im_start|>


def test_a_long_document_is_cut_and_the_question_is_not(llm: LLM) -> None:
    cut = PoolingParams(truncate_prompt_tokens=100)
    (output,) = llm.score("cat", "dog " * 200, reranker="qwen3", pooling_params=cut)
    behind = _tokenizer().encode(_SUFFIX, add_special_tokens=False)
    assert len(output.prompt_token_ids) == 100
    assert output.prompt_token_ids[-len(behind) :] == behind


@pytest.mark.parametrize("told", [{"is_original_qwen3_reranker": True}, {}])
def test_rerankers_are_known_by_their_config_or_name(
    qwen3: Path, tmp_path: Path, told: dict[str, Any]
) -> None:
    """With the settings that vLLM is given, or by Qwen's own name."""
    folder = tmp_path / ("other" if told else "Qwen3-Reranker-0B")
    folder.mkdir()
    for path in qwen3.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    if told:
        settings = {"architectures": ["Qwen3ForSequenceClassification"], **told}
        _set(folder, classifier_from_token=["no", "yes"], **settings)
    with LLM(str(folder), **_KV) as found:
        (output,) = found.score("the cat", "a dog", instruction="sat", use_tqdm=False)
    told_ids = _tokenizer().encode(
        f"{_PREFIX}<Instruct>: sat\n<Query>: the cat\n<Document>: a dog{_SUFFIX}",
        add_special_tokens=False,
    )
    assert output.prompt_token_ids == told_ids
    no, yes = _logits(qwen3, told_ids)[[7, 8]]
    assert output.outputs.score == pytest.approx(float(torch.sigmoid(yes - no)), abs=1e-4)


def _classifier(folder: Path, **settings: Any) -> Path:
    config = make_settings("qwen3", **settings)
    torch.manual_seed(5)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("problem", [None, "regression"])
def test_a_classifier_of_one_label_scores_pairs(tmp_path: Path, problem: str | None) -> None:
    folder = _classifier(tmp_path, num_labels=1)
    _set(folder, problem_type=problem)
    with LLM(str(folder), **_KV) as llm:
        (output,) = llm.score("the cat sat", "a dog", use_tqdm=False)
        with pytest.raises(RequestError, match="it classifies"):
            llm.embed("a")
        with pytest.raises(RequestError, match="no head that makes tokens"):
            llm.generate("a")
    ids = _tokenizer().encode("the cat sat", text_pair="a dog")
    assert output.prompt_token_ids == ids
    own = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager")
    with torch.inference_mode():
        logit = own(torch.tensor([ids])).logits[0, 0]
    truth = logit if problem == "regression" else torch.sigmoid(logit)
    assert output.outputs.score == pytest.approx(float(truth), abs=1e-4)


def test_more_labels_are_no_score(tmp_path: Path) -> None:
    with (
        LLM(str(_classifier(tmp_path, num_labels=3)), **_KV) as llm,
        pytest.raises(RequestError, match="tells 3 labels apart"),
    ):
        llm.score("a", "the")


def test_pooled_rows_cost_no_logits(qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head sees the rows of answers, and the one by which a pair is judged."""
    rows: list[int] = []
    plain = torch.nn.functional.linear

    def counting(x: torch.Tensor, weight: torch.Tensor, bias: Any = None) -> torch.Tensor:
        if len(weight) == 211:  # the vocabulary
            rows.append(x.shape[:-1].numel())
        return plain(x, weight, bias)

    with LLM(str(qwen3), dense="plain", **_KV) as llm:
        monkeypatch.setattr(torch.nn.functional, "linear", counting)
        llm.embed(["the cat sat on the mat " * 9, "a dog"], use_tqdm=False)
        assert sum(rows) == 0
        llm.score("the cat", ["a", "the"], reranker="qwen3", use_tqdm=False)
        assert sum(rows) == 2
