"""Messages made from what their types say: valid ones, wild ones, and ones that only claim."""

from collections.abc import Iterator
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

__all__ = ["claims", "sample", "values"]

_INTS = st.integers(-(2**63), 2**63 - 1)
_FLOATS = st.floats(allow_nan=False)


def values(
    info: inspect.Type,
    ints: st.SearchStrategy[int] | None = None,
    floats: st.SearchStrategy[float] = _FLOATS,
    texts: st.SearchStrategy[str] | None = None,
) -> st.SearchStrategy[Any]:
    """Values of a type. With ``ints`` (wild numbers) limits of single numbers are not kept."""

    def of(info: inspect.Type) -> st.SearchStrategy[Any]:
        match info:
            case inspect.IntType():
                return _within(info, _INTS, st.integers) if ints is None else ints
            case inspect.FloatType():
                return _within(info, floats, st.floats)
            case inspect.StrType():
                return st.text(max_size=20) if texts is None else texts
            case inspect.BoolType():
                return st.booleans()
            case inspect.NoneType():
                return st.none()
            case inspect.ListType(item_type=item):
                return st.lists(of(item), max_size=4)
            case inspect.VarTupleType(item_type=item):
                return st.lists(of(item), max_size=4).map(tuple)
            case inspect.TupleType(item_types=items):
                return st.tuples(*map(of, items))
            case inspect.UnionType(types=kinds):
                return st.one_of(*map(of, kinds))
            case inspect.StructType(cls=cls, fields=fields):
                return st.builds(cls, **{field.name: of(field.type) for field in fields})
            case inspect.DataclassType(cls=cls, fields=fields):
                return st.builds(cls, **{field.name: of(field.type) for field in fields})
        raise AssertionError(f"no values are known for {info}")

    return of(info)


def _within(info: Any, default: st.SearchStrategy[Any], make: Any) -> st.SearchStrategy[Any]:
    if info.ge is None and info.le is None:
        return default
    return make(info.ge, info.le)  # type: ignore[no-any-return]


def sample(kind: Any) -> Any:
    """The smallest message of a kind: ones, empty texts and lists of one element."""
    return msgspec.convert(_sample(inspect.type_info(kind)), kind)


def claims(kind: Any, length: int) -> Iterator[bytes]:
    """Headers of a message in which one list is said to have ``length`` elements, and ends there.

    One for every list that the message's type has, at any depth.
    """
    builtins = _sample(inspect.type_info(kind))
    for path in _lists(builtins, ()):
        yield _truncated(builtins, path, length)


def _sample(info: inspect.Type) -> Any:
    """Builtins as the wire has them: a struct is a list, its tag first; so is a tuple."""
    match info:
        case inspect.IntType() | inspect.FloatType():
            return 1
        case inspect.StrType():
            return ""
        case inspect.BoolType():
            return True
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return [_sample(item)]
        case inspect.TupleType(item_types=items):
            return [_sample(item) for item in items]
        case inspect.UnionType(types=kinds):
            return _sample(next(k for k in kinds if not isinstance(k, inspect.NoneType)))
        case inspect.StructType(fields=fields, tag=tag):
            return [*([tag] if tag is not None else []), *(_sample(f.type) for f in fields)]
        case inspect.DataclassType(fields=fields):
            return {field.encode_name: _sample(field.type) for field in fields}
    raise AssertionError(f"no sample is known for {info}")


_Path = tuple[int | str, ...]


def _lists(value: Any, path: _Path) -> Iterator[_Path]:
    if isinstance(value, list):
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, list | dict):
            yield from _lists(item, (*path, key))


def _truncated(value: Any, path: _Path, length: int) -> bytes:
    """msgpack of ``value`` up to the list at ``path``, whose header claims ``length``."""
    if not path:
        return b"\xdd" + length.to_bytes(4, "big")
    pack, (key, *rest) = msgspec.msgpack.encode, path
    if isinstance(value, dict):
        keys = list(value)
        before = keys[: keys.index(key)]
        head = b"".join(pack(name) + pack(value[name]) for name in before) + pack(key)
        return bytes([0x80 + len(keys)]) + head + _truncated(value[key], tuple(rest), length)
    assert isinstance(key, int)
    head = b"".join(map(pack, value[:key]))
    return bytes([0x90 + len(value)]) + head + _truncated(value[key], tuple(rest), length)
