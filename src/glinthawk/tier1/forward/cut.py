"""The cut at attention: a model's unchanged ``forward`` as a coroutine.

transformers lets a program register an attention function. Ours leaves the forward pass (a
greenlet) with the layer's q, k, v and comes back with the attention output, so one thread can keep
many passes in progress and run whichever has its answer.
"""

import inspect
from typing import Any, NamedTuple, Protocol

import torch
from greenlet import GreenletExit, getcurrent, greenlet
from transformers import AttentionInterface, PreTrainedModel

from glinthawk.core.errors import UnsupportedModel
from glinthawk.tier1.forward.row_adapters import RowAdapters

__all__ = [
    "IMPLEMENTATION",
    "Arguments",
    "Call",
    "Departure",
    "Forward",
    "Pass",
    "Passes",
    "Suspension",
    "attend_alone",
    "hold_states",
    "make_hidden",
    "note_arguments",
    "running_adapters",
    "running_lengths",
    "suspended_attention",
]

#: The name under which transformers knows our attention. No mask function has this name, so the
#: model builds no masks: which keys a query sees is known per layer (see ``masks.py``).
IMPLEMENTATION = "glinthawk"

#: args and kwargs of a module's forward.
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Call(NamedTuple):
    """A forward pass that waits for attention. Shapes as the model has them, batch of one."""

    module: torch.nn.Module
    queries: torch.Tensor  # (1, H, T, D)
    keys: torch.Tensor  # (1, K, T, D)
    values: torch.Tensor  # (1, K, T, Dv)
    mask: Any
    options: dict[str, Any]
    #: What the module was given, where ``note_arguments`` looks; else None.
    arguments: Arguments | None = None

    def head(self, num_rows: int) -> "Call":
        """The same of the first ``num_rows`` rows."""
        q, k, v = (rows[:, :, :num_rows] for rows in (self.queries, self.keys, self.values))
        return self._replace(queries=q, keys=k, values=v)


class Departure(BaseException):
    """Leaves a forward pass after the last layer of a slice, with its hidden state (T, hidden)."""

    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class Forward(Protocol):
    """One forward pass over flattened rows.

    ``resume(None)`` starts it; every return is either a Call, to be answered by
    ``resume(output)`` with output (T, H, Dv), or the logits (R, V) of the rows in ``keep``; of a
    model without a head, their hidden states (R, hidden). What it returns is valid until ``close``.

    A pipeline slice that is not the first is given the hidden state (T, hidden) that the one before
    ended with; one that is not the last ends with the hidden state of all rows.
    """

    @property
    def depth(self) -> int:
        """Calls answered so far, which is also the index of the layer that waits."""
        ...

    @property
    def states(self) -> torch.Tensor | None:
        """At the end, the hidden states (P, hidden) of the ``pooled`` rows, behind the model's last
        norm; None if there are none."""
        ...

    def resume(self, output: torch.Tensor | None) -> Call | torch.Tensor:
        """Run to the next attention or to the end."""
        ...

    def close(self) -> None:
        """The pass is over, wherever it is."""
        ...


class Passes(Protocol):
    """Makes passes that have not begun."""

    def __call__(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        keep: torch.Tensor,
        hidden: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
        pooled: torch.Tensor | None = None,
        adapters: torch.Tensor | None = None,
    ) -> Forward:
        """Of rows with these ids (T,) and positions (T,), of which those in ``keep`` (R,) get
        logits, and of those in ``pooled`` (P,), none of which is kept, the hidden state is given
        at the end. ``hidden`` (T, hidden) is what the slice before has made. By ``lengths`` (T,)
        rows are rotated whose model looks at that; None: all are short. ``adapters`` (T,) are the
        numbers of the rows' LoRA adapters, 0 for none; None: no row has any."""
        ...


class Suspension(greenlet):
    """The model's own code, which leaves with a Call wherever it calls attention."""

    #: Of the attention module that runs.
    arguments: Arguments | None = None

    def close(self) -> None:
        """Unwind what has not ended; its frames and tensors are freed."""
        if self:
            self.throw(GreenletExit)


class Pass(Suspension):
    """A Forward that runs the model's own code, a coroutine."""

    def __init__(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        keep: torch.Tensor,
        hidden: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
        pooled: torch.Tensor | None = None,
        adapters: torch.Tensor | None = None,
    ) -> None:
        super().__init__(self._forward)
        self.hidden, self.lengths = hidden, lengths
        self.adapters = None if adapters is None else RowAdapters(adapters)
        self.states: torch.Tensor | None = None
        self._model = model
        self._num_kept, self._is_pooled = len(keep), pooled is not None
        self._wanted = keep if pooled is None else torch.cat([keep, pooled])
        self._inputs = _forward_inputs(model, input_ids, position_ids, self._wanted)
        self.depth = -1

    def resume(self, output: torch.Tensor | None) -> Call | torch.Tensor:
        self.depth += 1
        result: Call | torch.Tensor = self.switch(output)
        return result

    def set_aside(self, hidden: torch.Tensor) -> torch.Tensor:
        """Of what the model gives its head (1, R, hidden), the rows that need logits. If there are
        none, the pass ends here."""
        if not self._is_pooled:
            return hidden
        kept = self._take_states(hidden[0])
        if not len(kept):
            raise Departure(kept)
        return kept.unsqueeze(0)

    def _forward(self, _first: None) -> torch.Tensor:
        try:
            output = self._model(**self._inputs)
        except Departure as departure:
            return departure.hidden
        logits: torch.Tensor | None = getattr(output, "logits", None)
        if logits is None:
            return self._take_states(output.last_hidden_state[0])
        # Models without ``logits_to_keep`` compute all rows.
        is_chosen = self._is_pooled or len(logits[0]) == self._num_kept
        return logits[0] if is_chosen else logits[0, self._wanted]

    def _take_states(self, rows: torch.Tensor) -> torch.Tensor:
        """Keep hidden states of rows that are pooled; returns those of the others."""
        wanted = rows if "logits_to_keep" in self._inputs else rows[self._wanted]
        if self._is_pooled:
            self.states = wanted[self._num_kept :]
        return wanted[: self._num_kept]


def make_hidden(model: PreTrainedModel, num_rows: int, seed: int = 0) -> torch.Tensor:
    """A random hidden state (num_rows, hidden), as a later pipeline slice may receive it."""
    size = model.config.get_text_config().hidden_size
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, size, generator=generator).to(model.device, model.dtype)


def attend_alone(call: Call) -> torch.Tensor:
    """Attention of rows that are sequences of one token each, their values (T, H, Dv)."""
    values = call.values[0].to(call.queries.dtype).unsqueeze(1)  # (K, 1, T, Dv)
    group = call.queries.shape[1] // len(values)
    return values.expand(-1, group, -1, -1).flatten(0, 1).transpose(0, 1)


def _forward_inputs(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    position_ids: torch.Tensor,
    keep: torch.Tensor,
) -> dict[str, Any]:
    """Arguments of ``model.forward`` for rows of many sequences flattened to a batch of one."""
    inputs: dict[str, Any] = {
        "input_ids": input_ids.unsqueeze(0),
        "position_ids": position_ids.unsqueeze(0),
        "use_cache": False,
    }
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        inputs["logits_to_keep"] = keep
    return inputs


def running_lengths() -> torch.Tensor | None:
    """By which the rows (T,) of the pass are rotated that runs now. Raises UnsupportedModel where
    an attention module runs by itself."""
    current = getcurrent()
    if isinstance(current, Suspension) and not isinstance(current, Pass):
        raise UnsupportedModel("its attention computes a rotary embedding that changes with length")
    return current.lengths if isinstance(current, Pass) else None


def running_adapters() -> RowAdapters | None:
    """Those of the rows of the pass that runs now; None where no row has any."""
    current = getcurrent()
    return current.adapters if isinstance(current, Pass) else None


def hold_states(model: PreTrainedModel) -> None:
    """Let passes of ``model`` keep the hidden states of rows that are pooled from its head. One
    without a head ends with them anyway."""
    head = model.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(_set_aside)


def _set_aside(_head: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    current = getcurrent()
    return (current.set_aside(given[0]),) if isinstance(current, Pass) else given


def note_arguments(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A forward pre-hook for attention modules: the Call that follows says what they were given."""
    current = getcurrent()
    if isinstance(current, Suspension):
        current.arguments = args, kwargs


def suspended_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    current = getcurrent()
    if not isinstance(current, Suspension) or current.parent is None:
        raise UnsupportedModel("attention was called outside of a pass")
    arguments, current.arguments = current.arguments, None
    output: torch.Tensor = current.parent.switch(
        Call(module, query, key, value, attention_mask, options, arguments)
    )
    return output.unsqueeze(0), None


AttentionInterface.register(IMPLEMENTATION, suspended_attention)
