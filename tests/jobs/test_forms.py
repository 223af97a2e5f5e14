"""Templates that read content as a string, as parts, as both or not at all."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from glinthawk.core.errors import RequestError
from glinthawk.core.limits import Limits
from glinthawk.jobs.lines import LineReader, Refusal, Task
from glinthawk.jobs.text import Text

_GUARD = (
    "{% for m in messages %}{{ m['role'] }}: "
    "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] | trim }}"
    "{% endif %}{% endfor %}/{% endfor %}"
)
_SELECT = (
    "{% for m in messages %}{{ m['role'] | upper }}: "
    "{% for part in m['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] }}{% endfor %}/{% endfor %}"
)
_FIRST = "{% for m in messages %}{{ m['content'][0]['text'] }}/{% endfor %}"
_STRING = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}/{% endfor %}"
_STRICT_STRING = "{% for m in messages %}{{ m['content'].strip() }}/{% endfor %}"
_MIXED = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% else %}{{ m['content'][0]['text'] }}{% endif %}/{% endfor %}"
)
_EITHER = (
    "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for part in m['content'] %}{{ part['text'] }}|{% endfor %}{% endif %}/{% endfor %}"
)
_BOTH = _EITHER.replace("}}|{%", "}}{%")
_ALTERNATING = (
    "{% if messages[0]['role'] != 'system' %}{{ raise_exception('system first') }}{% endif %}"
    + _FIRST
)
_DEAF = "{% for m in messages %}{{ m['role'] }}: {{ m['text'] }}/{% endfor %}"


@pytest.fixture
def speak(bpe_folder: Path) -> Any:
    """A Text whose model has the template it is given."""

    def with_template(template: str) -> tuple[Text, Any]:
        tokenizer = AutoTokenizer.from_pretrained(bpe_folder)
        tokenizer.chat_template = template
        return Text(tokenizer), tokenizer

    return with_template


def _parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def _all_as(form: Any, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**message, "content": form(message["content"])} for message in messages]


_TALK = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "hello world"},
    {"role": "assistant", "content": "the cat"},
    {"role": "user", "content": "how are you"},
]


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (_GUARD, _parts),
        (_SELECT, _parts),
        (_FIRST, _parts),
        (_ALTERNATING, _parts),
        (_STRING, str),
        (_STRICT_STRING, str),
        (_BOTH, str),
    ],
)
@pytest.mark.parametrize("given", [str, _parts])
def test_a_template_gets_the_form_it_reads(
    speak: Any, template: str, form: Any, given: Any
) -> None:
    text, tokenizer = speak(template)
    right = tokenizer.apply_chat_template(
        _all_as(form, _TALK), add_generation_prompt=True, return_dict=False
    )
    assert text.encode_chat(_all_as(given, _TALK)) == tuple(right)
    said = tokenizer.decode(right)
    assert all(message["content"] in said for message in _TALK)


def test_each_role_has_its_form(speak: Any) -> None:
    text, tokenizer = speak(_MIXED)
    for given in (str, _parts):
        ids = text.encode_chat(_all_as(given, _TALK))
        assert tokenizer.decode(ids) == "be kind/hello world/the cat/how are you/"


def test_several_parts(speak: Any) -> None:
    several = [{"role": "user", "content": _parts("hello", "world")}]
    for template, said in ((_STRING, "user: hello\nworld/"), (_BOTH, "helloworld/")):
        text, tokenizer = speak(template)
        assert tokenizer.decode(text.encode_chat(several)) == said


def test_a_template_that_drops_the_user_is_refused(speak: Any) -> None:
    text, _ = speak(_DEAF)
    for given in (str, _parts):
        with pytest.raises(RequestError, match=r"neither as a string nor .*use /v1/completions"):
            text.encode_chat(_all_as(given, _TALK))
    reader = LineReader(text, Limits(256, 1024, 320), "tiny")
    line = (
        b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": '
        b'{"messages": [{"role": "user", "content": "hello"}]}}'
    )
    assert isinstance(reader.read(0, line), Refusal)
    assert isinstance(LineReader(speak(_GUARD)[0], reader.limits, "t").read(0, line), Task)


def test_roles_that_a_template_drops_are_its_own_matter(speak: Any) -> None:
    last = "{{ messages[-1]['content'] }}"
    text, tokenizer = speak(last)
    assert tokenizer.decode(text.encode_chat(_TALK)) == "how are you"
    text, _ = speak("{{ raise_exception('never') }}")
    with pytest.raises(RequestError, match=r"refused the messages.*never"):
        text.encode_chat(_TALK)
