"""``tools`` and ``tool_choice`` of a body."""

from dataclasses import dataclass
from typing import Any

from glinthawk.core.errors import RequestError
from glinthawk.core.structured_outputs import StructuredOutputsParams
from glinthawk.jobs.body import ChatBody
from glinthawk.jobs.structured_fields import find_structured

__all__ = ["REQUIRED", "ToolWish", "constrain_calls", "read_tools"]

#: Any tool, but one at least.
REQUIRED = "required"
_WORDS = ("none", "auto", REQUIRED)


@dataclass(frozen=True, slots=True)
class ToolWish:
    """Tools that an answer may call. ``choice`` is "auto", "required" or ``name``d: that one."""

    tools: tuple[dict[str, Any], ...]
    choice: str = "auto"
    name: str | None = None
    is_parallel: bool = True

    @property
    def is_forced(self) -> bool:
        """Whether the answer is a call and nothing else, in a form of ours."""
        return self.choice != "auto"


def read_tools(body: ChatBody) -> ToolWish | None:
    """None where no tool is to be called. RequestError names what is wrong."""
    tools = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(body.tools or [])]
    choice, name = _choice(body.tool_choice)
    if not tools and choice in (REQUIRED, "named"):
        raise RequestError("tool_choice asks for a tool, but tools has none", param="tool_choice")
    names = [tool["function"]["name"] for tool in tools]
    if name is not None and name not in names:
        raise RequestError(
            f"tool_choice names {name!r}; tools has {', '.join(names)}", param="tool_choice"
        )
    if not tools or choice == "none":
        return None
    return ToolWish(tuple(tools), choice, name, body.parallel_tool_calls is not False)


def constrain_calls(wish: ToolWish | None, body: ChatBody) -> StructuredOutputsParams | None:
    """What an answer looks like that must be calls: a list of them, or arguments of the one."""
    if wish is None or not wish.is_forced:
        return None
    if (other := find_structured(body)) is not None:
        raise RequestError(f"{other} stands beside tool_choice; give one", param=other)
    return StructuredOutputsParams(json=_schema(wish))


def _schema(wish: ToolWish) -> dict[str, Any]:
    functions = [tool["function"] for tool in wish.tools]
    if wish.name is not None:
        return next(_parameters(one) for one in functions if one["name"] == wish.name)
    shared: dict[str, Any] = {}
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": one["name"]}, "arguments": _lift(one, shared)},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for one in functions
    ]
    most = {} if wish.is_parallel else {"maxItems": 1}
    return {"type": "array", "minItems": 1, **most, "items": {"anyOf": calls}, **shared}


def _lift(function: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """Its parameters without their definitions, which go to ``shared``: references count from the
    top of a schema."""
    parameters = _parameters(function)
    for key in ("$defs", "definitions"):
        known = shared.setdefault(key, {}) if key in parameters else {}
        for name, meaning in (parameters.pop(key, None) or {}).items():
            if known.setdefault(name, meaning) != meaning:
                raise RequestError(
                    f"two tools mean different things by {key}.{name}; rename one", param="tools"
                )
    return parameters


def _parameters(function: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {}, **(function.get("parameters") or {})}


def _tool(tool: Any, where: str) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or tool.get("type", "function") != "function":
        raise RequestError(
            f'{where} must be {{"type": "function", "function": {{"name": ..., "parameters": '
            "...}}; other tools are not supported",
            param="tools",
        )
    name, parameters = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not name:
        raise RequestError(f"{where}.function.name must be a string; give one", param="tools")
    if not isinstance(parameters, dict | None):
        raise RequestError(
            f"{where}.function.parameters must be a JSON schema; correct it", param="tools"
        )
    kept = {key: value for key, value in function.items() if value is not None and key != "strict"}
    return {"type": "function", "function": kept}


def _choice(choice: Any) -> tuple[str, str | None]:
    """The word, and the name of the one tool."""
    if choice is None:
        return "auto", None
    if isinstance(choice, str) and choice in _WORDS:
        return choice, None
    function = choice.get("function", choice) if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise RequestError(
            f"tool_choice must be one of {', '.join(_WORDS)}, or "
            '{"type": "function", "function": {"name": ...}}; correct it',
            param="tool_choice",
        )
    return "named", name
