"""Fields of a body that say what the answer must look like, as OpenAI and vLLM spell them."""

from typing import Any, Literal

import msgspec

from glinthawk.core.errors import RequestError
from glinthawk.core.structured_outputs import StructuredOutputsParams

__all__ = ["StructuredFields", "find_structured", "read_structured"]

_Schema = dict[str, Any] | str


class _JsonSchema(msgspec.Struct, forbid_unknown_fields=True):
    """OpenAI's; the schema is kept to, ``strict`` or not."""

    schema: dict[str, Any]
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class _ResponseFormat(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: _JsonSchema | None = None
    #: vLLM's, of a structural tag.
    structures: list[Any] | None = None
    triggers: list[Any] | None = None
    format: Any = None

    def __post_init__(self) -> None:
        if self.type != "structural_tag" and (given := self.tag_fields()):
            raise ValueError(f'{min(given)} is for the type "structural_tag" alone; leave it out')

    def tag_fields(self) -> dict[str, Any]:
        """Those of them that are given."""
        fields = {"structures": self.structures, "triggers": self.triggers, "format": self.format}
        return {name: value for name, value in fields.items() if value is not None}


class _StructuredOutputs(msgspec.Struct, forbid_unknown_fields=True):
    """vLLM's."""

    json: _Schema | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: _Schema | None = None
    disable_any_whitespace: bool | None = None


class StructuredFields(msgspec.Struct, kw_only=True):
    """None is absent. What begins with ``guided`` is what vLLM said before."""

    response_format: _ResponseFormat | None = None
    structured_outputs: _StructuredOutputs | None = None
    guided_json: _Schema | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None


def find_structured(fields: StructuredFields) -> str | None:
    """The one field that is given and asks for something. Raises RequestError where several do."""
    names = StructuredFields.__struct_fields__
    given = [name for name in names if getattr(fields, name) is not None]
    if fields.response_format is not None and fields.response_format.type == "text":
        given.remove("response_format")
    if len(given) > 1:
        raise RequestError(f"{given[1]} stands beside {given[0]}; give one", param=given[1])
    return given[0] if given else None


def read_structured(fields: StructuredFields) -> StructuredOutputsParams | None:
    """What the answer must look like; None if that is open. RequestError names a wrong field."""
    name = find_structured(fields)
    if name is None:
        return None
    try:
        return StructuredOutputsParams(**_constraint(name, fields))
    except ValueError as error:
        reason = str(error).replace("structured_outputs", name, 1)
        raise RequestError(f"{reason}; correct it", param=name) from error


def _constraint(name: str, fields: StructuredFields) -> dict[str, Any]:
    """As arguments of StructuredOutputsParams."""
    if name == "structured_outputs":
        given = msgspec.structs.asdict(fields.structured_outputs)  # type: ignore[arg-type]
        return {name: value for name, value in given.items() if value is not None}
    if name != "response_format":
        return {name.removeprefix("guided_"): getattr(fields, name)}
    form = fields.response_format
    assert form is not None
    if form.type == "json_object":
        return {"json_object": True}
    if form.type == "structural_tag":
        return {"structural_tag": form.tag_fields()}
    if form.json_schema is None:
        raise RequestError("response_format.json_schema is missing; give a schema", param=name)
    return {"json": form.json_schema.schema}
