"""Free text with tagged parts that keep to schemas, as a grammar of llguidance."""

from typing import Any

import msgspec
from llguidance import StructTag

from glinthawk.tokens.schema_check import check_schema

__all__ = ["write_tags"]


class _Structure(msgspec.Struct, forbid_unknown_fields=True):
    """Between ``begin`` and ``end`` stands what fits ``schema``."""

    begin: str
    schema: dict[str, Any]
    end: str


class _Tags(msgspec.Struct, forbid_unknown_fields=True):
    """vLLM's; where text has come to a trigger, a structure follows that begins with it."""

    structures: list[_Structure]
    triggers: list[str]
    type: str = "structural_tag"


def write_tags(text: str, options: dict[str, Any]) -> str:
    """A grammar of ``text``, which is JSON; ``options`` are those of each schema. Raises ValueError
    for tags that say nothing, or what cannot be said here."""
    try:
        tags = msgspec.json.decode(text, type=_Tags)
    except msgspec.MsgspecError as error:
        raise ValueError(f'{error}; give "structures" and "triggers"') from error
    if not tags.structures or not all(tags.triggers):
        raise ValueError("it needs a structure, and no empty trigger")
    triggers = [_find_trigger(structure, tags.triggers) for structure in tags.structures]
    if idle := set(tags.triggers) - set(triggers):
        raise ValueError(f"no structure begins with the trigger {min(idle)!r}")
    pairs = zip(tags.structures, triggers, strict=True)
    written = [_write(structure, trigger, options) for structure, trigger in pairs]
    return StructTag.to_grammar(written, assume_special=False)


def _find_trigger(structure: _Structure, triggers: list[str]) -> str:
    for trigger in triggers:
        if structure.begin.startswith(trigger):
            return trigger
    raise ValueError(f"the structure {structure.begin!r} begins with no trigger")


def _write(structure: _Structure, trigger: str, options: dict[str, Any]) -> StructTag:
    check_schema(msgspec.json.encode(structure.schema).decode())
    schema = {**structure.schema, "x-guidance": options}
    return StructTag(trigger=trigger, begin=structure.begin, grammar=schema, end=structure.end)
