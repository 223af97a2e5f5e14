"""What an answer must look like; names and meanings as in vLLM."""

import json as json_text
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from glinthawk.core.setting import Setting, describe_settings

__all__ = ["StructuredOutputsParams", "Thoughts"]

_CONSTRAINTS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")


@dataclass(frozen=True, slots=True)
class Thoughts:
    """What may come before an answer, between marks; ``are_open``: the prompt has begun them, so
    they do come."""

    begin: str
    end: str
    are_open: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredOutputsParams:
    """Exactly one constraint; frozen, and checked at once: ValueError names what is wrong. Whether
    it can be compiled is known only with the model's tokenizer."""

    json: Annotated[
        str | Mapping[str, Any] | None, Setting("A JSON schema, as an object or as its text.")
    ] = None
    regex: Annotated[str | None, Setting("A regular expression for the whole answer.")] = None
    choice: Annotated[Sequence[str] | None, Setting("The answer is one of these.")] = None
    grammar: Annotated[str | None, Setting("A context-free grammar: GBNF or Lark.")] = None
    json_object: Annotated[bool | None, Setting("The answer is any JSON object.")] = None
    structural_tag: Annotated[
        str | Mapping[str, Any] | None,
        Setting('Free text with parts in JSON: "structures" and the "triggers" that begin them.'),
    ] = None
    disable_any_whitespace: Annotated[
        bool, Setting("JSON without spaces and line breaks between its parts.")
    ] = False
    thoughts: Annotated[
        Thoughts | None,
        Setting("What may come before the answer, as it likes; lines have it of their template."),
    ] = None

    def __post_init__(self) -> None:
        # As plain data, which is compared, hashed and sent.
        for name in ("json", "structural_tag"):
            if isinstance(getattr(self, name), Mapping):
                object.__setattr__(self, name, _write(name, getattr(self, name)))
        if isinstance(self.choice, list):
            object.__setattr__(self, "choice", tuple(self.choice))
        given = [name for name in _CONSTRAINTS if self._is_given(name)]
        if len(given) != 1:
            found = f"not {' and '.join(given)}" if given else "and none is given"
            raise ValueError(f"structured_outputs takes one of {', '.join(_CONSTRAINTS)}, {found}")
        for name in ("json", "regex", "grammar", "structural_tag"):
            value = getattr(self, name)
            if not isinstance(value, str | None):
                raise ValueError(f"structured_outputs: {name} must be a string, not {value!r}")
        if self.choice is not None and not _are_choices(self.choice):
            raise ValueError("structured_outputs: choice must be a list of one string or more")

    def _is_given(self, name: str) -> bool:
        return getattr(self, name) not in (None, False)

    @property
    def kind(self) -> str:
        """The name of the constraint."""
        return next(name for name in _CONSTRAINTS if self._is_given(name))


def _write(name: str, value: Mapping[str, Any]) -> str:
    try:
        return json_text.dumps(dict(value), ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"structured_outputs: {name} is no JSON ({error})") from error


def _are_choices(choices: object) -> bool:
    is_list = isinstance(choices, tuple) and len(choices) > 0
    return is_list and all(isinstance(choice, str) for choice in choices)  # type: ignore[attr-defined]


# help(StructuredOutputsParams) says what stands at the fields.
StructuredOutputsParams.__doc__ = (
    f"{StructuredOutputsParams.__doc__}\n\n{describe_settings(StructuredOutputsParams)}"
)
