"""An adapter by name, as vLLM's scripts ask for it."""

from dataclasses import dataclass

from glinthawk.core.errors import UsageError

__all__ = ["LoRARequest", "number_adapter"]


@dataclass(frozen=True, slots=True)
class LoRARequest:
    """The adapter ``lora_name`` of those that the model was opened with. vLLM reads an adapter when
    it is asked for; here its path is given to ``LLM(lora=...)``, and neither ``lora_int_id`` nor
    ``lora_path`` is looked at."""

    lora_name: str
    lora_int_id: int = 0
    lora_path: str = ""


def number_adapter(asked: LoRARequest | str | None, names: tuple[str, ...]) -> int:
    """Which of ``names`` is asked for, counted from 1; 0 is the model itself. Raises UsageError for
    one that there is not."""
    if asked is None:
        return 0
    name = asked.lora_name if isinstance(asked, LoRARequest) else asked
    if name not in names:
        known = f"there are {', '.join(names)}" if names else "there are none"
        raise UsageError(
            f"lora_request: no adapter is called {name!r}, {known}; give it with the model, "
            f"lora=['{name}=FOLDER']"
        )
    return names.index(name) + 1
