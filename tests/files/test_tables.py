"""Rows of tables as requests: the same of every form, and wrong columns are named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glinthawk.core.errors import UsageError
from glinthawk.files.request_maker import TableOptions
from glinthawk.files.request_source import RequestSource
from input_forms import write_memory
from table_forms import TABLES, Rows

_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_ROWS = st.lists(st.fixed_dictionaries({"id": _TEXT, "a text": _TEXT}), min_size=1, max_size=8)
ROWS: Rows = [{"id": f"r{n}", "text": f'says "{n}",\n twice', "n": n} for n in range(5)]


def requests(place: str | Path, **options: Any) -> list[Any]:
    return [json.loads(line) for line in RequestSource(str(place), TableOptions(**options)).lines()]


def chats(rows: Rows, prompt: Callable[[dict[str, Any]], str]) -> list[Any]:
    return [
        {
            "custom_id": row["id"],
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": prompt(row)}], "max_tokens": 4},
        }
        for row in rows
    ]


@pytest.mark.parametrize("form", [form for form in TABLES if form != "saved"])
@given(rows=_ROWS)
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_form_has_the_same_requests(form: str, rows: Rows, tmp_path: Path) -> None:
    TABLES[form](tmp_path / form, rows)
    options = {"id_column": "id", "body": {"max_tokens": 4}}
    found = requests(tmp_path / form, prompt_column="a text", **options)
    assert found == chats(rows, lambda row: row["a text"])
    found = requests(tmp_path / form, template="Say: {{ row['a text'] }}!", **options)
    assert found == chats(rows, lambda row: f"Say: {row['a text']}!")


@pytest.mark.parametrize("form", TABLES)
def test_templates_say_all_columns_and_ids_are_row_numbers(form: str, tmp_path: Path) -> None:
    TABLES[form](tmp_path / form, ROWS)
    found = requests(
        tmp_path / form, template="{{ n }}: {{ text | upper }}", body={"max_tokens": 4}
    )
    expected = chats(
        [{**row, "id": str(row["n"])} for row in ROWS], lambda r: f"{r['n']}: {r['text'].upper()}"
    )
    assert found == expected


@pytest.mark.parametrize("form", TABLES)
def test_prompts_may_go_on_as_text(form: str, tmp_path: Path) -> None:
    TABLES[form](tmp_path / form, ROWS)
    found = requests(tmp_path / form, prompt_column="n", endpoint="completions")
    assert [one["body"]["prompt"] for one in found] == [str(n) for n in range(5)]
    assert {one["url"] for one in found} == {"/v1/completions"}


@pytest.mark.parametrize("form", ["rows.parquet", "rows.jsonl", "saved", "rows.csv"])
def test_messages_are_lists_or_their_json(form: str, tmp_path: Path) -> None:
    messages = [
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
        [{"role": "user", "content": "bye", "name": "Ann"}],
    ]
    is_csv = form == "rows.csv"
    TABLES[form](tmp_path / form, [{"m": json.dumps(m) if is_csv else m} for m in messages])
    found = requests(tmp_path / form, messages_column="m")
    assert [one["body"]["messages"] for one in found] == messages


def test_rows_of_several_files_are_counted_on(tmp_path: Path) -> None:
    for number in range(3):
        TABLES["rows.parquet"](tmp_path / f"{number}.parquet", ROWS)
    found = requests(tmp_path, prompt_column="text")
    assert [one["custom_id"] for one in found] == [str(number) for number in range(15)]


def test_parquet_is_read_from_a_url_and_packed_again(tmp_path: Path) -> None:
    TABLES["rows.parquet"](tmp_path / "rows.parquet", ROWS)
    url = write_memory(f"{tmp_path.name}/rows.parquet", (tmp_path / "rows.parquet").read_bytes())
    assert requests(url, prompt_column="text") == requests(
        tmp_path / "rows.parquet", prompt_column="text"
    )


@pytest.mark.parametrize("form", TABLES)
@pytest.mark.parametrize(
    "options",
    [{"prompt_column": "txet"}, {"template": "{{ txet }}"}, {"messages_column": "txet"}],
)
def test_a_column_that_is_not_there_is_named(
    form: str, options: dict[str, str], tmp_path: Path
) -> None:
    TABLES[form](tmp_path / form, ROWS)
    with pytest.raises(UsageError, match=r"has no column txet; its columns are id, text, n"):
        requests(tmp_path / form, **options)


@pytest.mark.parametrize("form", TABLES)
def test_a_column_goes_before_a_word_of_jinjas(form: str, tmp_path: Path) -> None:
    TABLES[form](tmp_path / form, [{"range": "a", "n": 1}, {"range": "b", "n": 2}])
    found = requests(tmp_path / form, template="{{ range }}{{ dict(a=n) }}", endpoint="completions")
    sign = "'" if form.endswith(("csv", "tsv", "ending")) else ""
    assert [one["body"]["prompt"] for one in found] == [
        f"a{{'a': {sign}1{sign}}}",
        f"b{{'a': {sign}2{sign}}}",
    ]


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ text", "--template: .*expected 'end of print statement'; correct"),
        ("{{ text.nothing }}", "row 0: .*no attribute 'nothing'"),
        ("{{ ''.__class__.__mro__ }}", "row 0: .*unsafe"),
        ("{{ 1 // 0 }}", "row 0: .*by zero"),
    ],
)
def test_what_is_wrong_with_a_template_is_told(template: str, says: str, tmp_path: Path) -> None:
    TABLES["rows.csv"](tmp_path / "rows.csv", ROWS)
    with pytest.raises(UsageError, match=says):
        requests(tmp_path / "rows.csv", template=template)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prompt_column": "a", "template": "b"}, "give one of"),
        ({"id_column": "a"}, "go with --prompt-column"),
        ({"messages_column": "a", "endpoint": "completions"}, "messages are a chat"),
        ({"prompt_column": "a", "body": {"max_token": 3}}, "--body: max_token is not supported"),
        ({"prompt_column": "a", "body": {"max_tokens": "3"}}, "--body: max_tokens: expected"),
        ({"prompt_column": "a", "body": {"messages": []}}, "messages comes of each row"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        TableOptions(**options)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no header"),
        ("a,a\n1,2\n", "two columns 'a'"),
        ("a,b\n1,2\n1,2,3\n", r"line 3: 3 cells for 2 columns"),
        ('a,b\n1,"2\n', "cannot read"),
        ("a,b\n1,\udcff\n", "is not text in UTF-8"),
    ],
)
def test_what_is_wrong_with_csv_is_told(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match=says) as caught:
        requests(file, prompt_column="a")
    assert str(file) in str(caught.value)


def test_a_row_that_is_no_object_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n[1]\n')
    with pytest.raises(UsageError, match=r"no JSON object .*: \[1\]"):
        requests(tmp_path / "a.jsonl", prompt_column="a")


def test_a_saved_dataset_with_splits_asks_for_one(tmp_path: Path) -> None:
    data = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(tmp_path / "two")
    options = TableOptions(prompt_column="text")
    with pytest.raises(UsageError, match="has the splits train, test"):
        RequestSource(str(tmp_path / "two"), options)
    assert len([*RequestSource(str(tmp_path / "two"), options, "test").lines()]) == 1
