"""lm-evaluation-harness gets the scores of its own model ``hf``, on tasks over one local file."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glinthawk.core.errors import UsageError
from glinthawk.core.source import resolve_model
from glinthawk.lm_eval.generation import read_generation

_PEOPLE = ["list", "dict", "set", "tuple", "string", "number", "function", "class"]
_ROWS = [
    {
        "question": f"The {name} type is",
        "choices": [name, "a", "a list of", "iterable"],
        "answer": number % 3,
        "page": f"Return the {name} of its arguments. " * (1 + 9 * (number % 3)),
    }
    for number, name in enumerate(_PEOPLE)
]
_COMMON = """
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
"""
_TASKS = {
    "own_choice": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "own_pages": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{page}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
""",
    "own_writing": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{question}}"
generation_kwargs: {until: ["\\n", "."], max_gen_toks: 24, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tasks over one JSONL."""
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in _ROWS))
    for name, task in _TASKS.items():
        text = f"task: {name}{_COMMON.format(data=data)}{task}"
        (folder / f"{name}.yaml").write_text(text)
    return folder


_EVALUATION = """
import json, sys
import lm_eval, glinthawk.lm_eval
from lm_eval.tasks import TaskManager

kind, folder, arguments, options = sys.argv[1], sys.argv[2], *map(json.loads, sys.argv[3:])
done = lm_eval.simple_evaluate(
    model=kind,
    model_args=arguments,
    tasks=["own_choice", "own_pages", "own_writing"],
    task_manager=TaskManager(include_path=folder, include_defaults=False),
    bootstrap_iters=0,
    **options,
)
samples = {
    task: [sample["resps"] for sample in sorted(rows, key=lambda row: row["doc_id"])]
    for task, rows in done["samples"].items()
}
print("\\n" + json.dumps([done["results"], samples]))
"""


def _environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "HF_HOME": str(folder / "hub"),
        "HF_HUB_OFFLINE": "1",
        "TQDM_DISABLE": "1",
    }


def _evaluate(kind: str, tasks: Path, arguments: dict[str, Any], **options: Any) -> Any:
    given = [kind, str(tasks), json.dumps(arguments), json.dumps(options)]
    done = subprocess.run(
        [sys.executable, "-c", _EVALUATION, *given],
        capture_output=True,
        text=True,
        env=_environment(tasks),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


_MODEL = {"pretrained": resolve_model("demo"), "dtype": "float32"}


def _compare(ours: Any, theirs: Any) -> None:
    (results, samples), (true_results, true_samples) = ours, theirs
    for task in ("own_choice", "own_pages", "own_writing"):
        numbers = {name: one for name, one in results[task].items() if isinstance(one, float)}
        truth = {name: one for name, one in true_results[task].items() if isinstance(one, float)}
        assert numbers == pytest.approx(truth, abs=1e-4, rel=1e-4)
        assert len(samples[task]) == len(_ROWS)
    assert samples["own_writing"] == true_samples["own_writing"]
    for task in ("own_choice", "own_pages"):
        for answers, truths in zip(samples[task], true_samples[task], strict=True):
            flat, true = _flat(answers), _flat(truths)
            assert [one for one in flat if isinstance(one, bool | str)] == [
                one for one in true if isinstance(one, bool | str)
            ]
            assert [float(one) for one in flat] == pytest.approx(
                [float(one) for one in true], abs=1e-4
            )


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [part for one in value for part in _flat(one)]
    return [value]


def test_scores_and_generations_are_those_of_hf(tasks: Path) -> None:
    """Pages are longer than the windows, which are cut as the harness cuts them."""
    theirs = _evaluate("hf", tasks, _MODEL | {"max_length": 63}, device="cpu", batch_size=4)
    ours = _evaluate("glinthawk", tasks, _MODEL | {"max_length": 63, "tier1_kv": "16MiB"})
    _compare(ours, theirs)
    flags = [pair[1] for answers in ours[1]["own_choice"] for (pair,) in answers]
    assert len(set(map(str, flags))) == 2, "some continuations are greedy, and some are not"
    assert len({text for ((text,),) in ours[1]["own_writing"]}) > 3


def test_two_tiers_chats_and_examples_are_scored_alike(tasks: Path) -> None:
    chat = {"apply_chat_template": True, "num_fewshot": 0}
    theirs = _evaluate("hf", tasks, _MODEL | {"max_length": 500}, device="cpu", **chat)
    places = {"tier2": "local:1", "worker_kv": "64MiB", "tier1_kv": "1MiB", "max_length": 500}
    ours = _evaluate("glinthawk", tasks, _MODEL | places, **chat)
    _compare(ours, theirs)


def test_the_command_of_the_harness_knows_the_model(tasks: Path) -> None:
    arguments = "pretrained=demo,dtype=float32,tier1_kv=16MiB,max_length=63"
    command = [sys.executable, "-m", "glinthawk.lm_eval", "run", "--model", "glinthawk"]
    command += ["--model_args", arguments, "--include_path", tasks, "--tasks", "own_choice"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=_environment(tasks), check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "|own_choice|" in done.stdout


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"num_beams": 4}, "num_beams"),
        ({"max_gen_toks": 100}, "max_gen_toks is 100"),
        ({"top_p": 5}, "top_p must be"),
    ],
)
def test_a_generation_that_cannot_be_is_named(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_generation(given, end_of_text="</s>", max_gen_toks=9, max_length=100)


def test_a_generation_is_greedy_unless_it_is_to_be_sampled() -> None:
    def params(**given: Any) -> Any:
        return read_generation(given, end_of_text="</s>", max_gen_toks=9, max_length=100).params

    assert params(until=["\n"]).greedy
    assert params(do_sample=False, temperature=0.7).greedy
    assert params(do_sample=True).temperature == 1
    assert params(do_sample=True, temperature=0.7, top_p=0.5).top_p == 0.5
    assert list(params(until=["\n", ""]).stop) == ["\n", "</s>"]
    assert params(max_new_tokens=7).truncate_prompt_tokens == 93
