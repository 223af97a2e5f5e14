"""Chat templates that say the date say the job's, whenever a line is read."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from glinthawk.jobs.dates import fix_date
from glinthawk.jobs.text import Text

NOW = datetime(2023, 11, 4, 9, 3, 5, tzinfo=UTC)
HELLO = [{"role": "user", "content": "hello"}]
#: As Llama 3.2's, which asks whether there is a date at all.
LLAMA = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}'
    '{%- set date_string = "26 Jul 2024" %}{%- endif %}{%- endif %}'
    "Today: {{ date_string }}. {% for m in messages %}{{ m['content'] }}{% endfor %}"
)


def render(template: str) -> str:
    (said,), _ = render_jinja_template([HELLO], chat_template=template)
    return str(said)


directives = st.sampled_from([f"%{letter}" for letter in "aAwdbBmyYHIpMSfzZjUWcxXGuV"])
unpadded = st.sampled_from(["%-d", "%-m", "%-H", "%-I", "%-j"])
words = st.text(alphabet=" ,.:-/abcdefYTZ", max_size=4)


@given(
    parts=st.lists(directives | unpadded | words, max_size=8),
    now=st.datetimes(min_value=datetime(1971, 1, 1), timezones=st.just(UTC)),
)
def test_formats_say_what_strftime_says(parts: list[str], now: datetime) -> None:
    format = "".join(parts)
    assert render(fix_date("{{ strftime_now('" + format + "') }}", now)) == now.strftime(format)


@pytest.mark.parametrize(
    "template", ["\n {{ messages[0].content }}", "  a\n", "{% if 1 %}\n\nb{% endif %}"]
)
def test_all_else_is_rendered_as_it_was(template: str) -> None:
    assert fix_date(template, NOW) == template
    dated = template + "{% if false %}{{ strftime_now('%d') }}{% endif %}"
    assert render(fix_date(dated, NOW)) == render(dated)


def test_the_day_in_a_prompt_is_the_jobs(bpe_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bpe_folder)
    tokenizer.chat_template = LLAMA
    text = Text(tokenizer, now=NOW.timestamp())
    assert text.decode(text.encode_chat(HELLO)) == "Today: 04 Nov 2023. hello"
    today = Text(tokenizer)
    assert "04 Nov 2023" not in today.decode(today.encode_chat(HELLO))
