"""A job of lines with constraints, good and bad."""

import json
import re
from pathlib import Path
from typing import Any

from commands import call, line, results, write_lines
from result_schema import error_of


def _lines() -> list[dict[str, Any]]:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    bodies = {
        "schema": {"response_format": form},
        "bad": {"structured_outputs": {"json": {"type": "no such type"}}},
        "choice": {"guided_choice": ["yes", "no"], "n": 3},
        "text": {"response_format": {"type": "text"}},
        "worse": {"guided_grammar": "start: nothing"},
        "regex": {"structured_outputs": {"regex": "[a-c]{3}"}},
    }
    common = {"prompt": "The", "max_tokens": 64, "temperature": 0}
    return [line(name, **common, **body) for name, body in bodies.items()]


def test_a_job_with_bad_lines_answers_the_others(tmp_path: Path) -> None:
    source, output = write_lines(tmp_path / "in.jsonl", _lines()), tmp_path / "out.jsonl"
    done = call("run", "-m", "demo", "-i", source, "-o", output, "--tier1-kv", "16MiB")
    assert done.returncode == 1, done.stderr
    answers = {result["custom_id"]: result for result in results(output).values()}
    refused = {name for name, result in answers.items() if error_of(result) is not None}
    assert refused == {"bad", "worse"}
    for name in refused:
        assert "cannot be compiled" in str(error_of(answers[name]))

    def texts(name: str) -> list[str]:
        return [choice["text"] for choice in answers[name]["response"]["body"]["choices"]]

    assert set(texts("choice")) <= {"yes", "no"}
    assert isinstance(json.loads(texts("schema")[0])["a"], bool)
    assert re.fullmatch("[a-c]{3}", texts("regex")[0])
