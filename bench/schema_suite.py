"""JSON Schema's own test suite, read from a folder of it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice, permutations, product
from pathlib import Path
from typing import Any

__all__ = ["Instance", "SchemaCase", "read_suite"]

_DRAFTS = {
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}
#: Of an object with its parts, orders of keys that are tried.
_MOST_ORDERS = 720


@dataclass(frozen=True, slots=True)
class Instance:
    """Some JSON, and whether it fits its schema."""

    description: str
    data: Any
    is_valid: bool

    def texts(self) -> Iterator[str]:
        """What may be written of it: as it is, then with other orders of keys."""
        for data in islice(_orders(self.data), _MOST_ORDERS):
            yield _write(data)


@dataclass(frozen=True, slots=True)
class SchemaCase:
    """A schema with what fits it and what does not; ``keyword`` is its file's name."""

    keyword: str
    description: str
    schema: Any
    instances: list[Instance] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The schema as it is sent."""
        return _write(self.schema)


def read_suite(folder: Path) -> list[SchemaCase]:
    """All cases of a draft's ``folder``, without the optional ones. Raises FileNotFoundError if
    there are none."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise FileNotFoundError(f"{folder} has no tests; give a draft's folder, as draft2020-12")
    return [
        _read_case(folder.name, path.stem, case)
        for path in files
        for case in json.loads(path.read_text(encoding="utf-8"))
    ]


def _read_case(draft: str, keyword: str, case: dict[str, Any]) -> SchemaCase:
    schema = case["schema"]
    if isinstance(schema, dict) and draft in _DRAFTS:  # which one it is stands in newer ones alone
        schema = {"$schema": _DRAFTS[draft], **schema}
    tests = [Instance(test["description"], test["data"], test["valid"]) for test in case["tests"]]
    return SchemaCase(keyword, case["description"], schema, tests)


def _write(data: Any) -> str:
    text = json.dumps(data, ensure_ascii=False)
    return text if _is_unicode(text) else json.dumps(data)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _orders(data: Any) -> Iterator[Any]:
    match data:
        case dict():
            for keys in permutations(data):
                for values in product(*(_listed(data[key]) for key in keys)):
                    yield dict(zip(keys, values, strict=True))
        case list():
            yield from map(list, product(*map(_listed, data)))
        case _:
            yield data


def _listed(data: Any) -> list[Any]:
    return list(islice(_orders(data), _MOST_ORDERS))
