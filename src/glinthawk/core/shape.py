"""A model's weights in numbers: what a step must read, multiply and keep, known without loading."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from glinthawk.core.slices import LayerSlice, balance_layers
from glinthawk.core.spec import DTYPE_BYTES, AttentionLayer, kv_bytes_per_token

__all__ = ["LayerShape", "ModelShape"]

#: Of a decode step, by which slices are made alike: with so many, a mixture reads nearly all of its
#: experts, as in the batches of most jobs.
_STEP_ROWS = 256


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One decoder layer."""

    attention: AttentionLayer
    #: All its weights.
    params: int
    #: The weights that one token is multiplied with; fewer than all in a mixture of experts.
    active_params: int

    def params_read(self, rows: int) -> float:
        """Weights that a step of ``rows`` tokens reads.

        In a mixture of experts each weight is read if any of the rows goes there. Rows are taken to
        go anywhere with equal probability, so that a weight is left out by all of them with
        ``(1 - active_params / params) ** rows``.
        """
        if self.params == self.active_params:
            return self.params
        return self.params * (1 - (1 - self.active_params / self.params) ** rows)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A model, or a run of its layers that is one pipeline slice."""

    name: str
    hidden_size: int
    max_model_len: int
    #: Type of weights and of what crosses the links.
    dtype: str
    layers: tuple[LayerShape, ...]
    #: Of the token embedding; 0 on slices after the first.
    embedding_params: int
    #: Of the output projection; 0 on slices before the last.
    head_params: int
    #: Whether embedding and output projection are one matrix.
    is_tied: bool = False
    #: Of a weight in a layer, with its share of a scale, where weights are quantised; None: as
    #: ``dtype`` has.
    layer_bits: float | None = None

    @property
    def attention(self) -> tuple[AttentionLayer, ...]:
        return tuple(layer.attention for layer in self.layers)

    @property
    def weight_bytes(self) -> int:
        """Memory for the weights."""
        shared = min(self.embedding_params, self.head_params) if self.is_tied else 0
        params = sum(layer.params for layer in self.layers)
        outside = self.embedding_params + self.head_params - shared
        return round(params * self._layer_bytes) + DTYPE_BYTES[self.dtype] * outside

    def bytes_read(self, rows: int, logits: int) -> float:
        """Weights that a step reads, for ``rows`` tokens of which ``logits`` are sampled after."""
        params = sum(layer.params_read(rows) for layer in self.layers)
        head = DTYPE_BYTES[self.dtype] * self.head_params if logits else 0
        return params * self._layer_bytes + head

    @property
    def _layer_bytes(self) -> float:
        """Of a weight in a layer."""
        return DTYPE_BYTES[self.dtype] if self.layer_bits is None else self.layer_bits / 8

    def kv_bytes_per_token(self, kv_dtype: str) -> int:
        """KV cache of one token in all layers."""
        return kv_bytes_per_token(self.attention, kv_dtype)

    @property
    def wire_bytes_out(self) -> int:
        """q, k and v of one token in all layers."""
        elements = sum(one.num_heads * one.head_dim + one.kv_elements for one in self.attention)
        return DTYPE_BYTES[self.dtype] * elements

    @property
    def wire_bytes_back(self) -> int:
        """Attention output of one token in all layers."""
        elements = sum(one.num_heads * one.value_dim for one in self.attention)
        return DTYPE_BYTES[self.dtype] * elements

    @property
    def hidden_bytes(self) -> int:
        """Of one token between two slices."""
        return DTYPE_BYTES[self.dtype] * self.hidden_size

    @property
    def input_bytes(self) -> int:
        """What every layer is given for one token before it projects keys and values."""
        return self.hidden_bytes * len(self.layers)

    @property
    def rebuild_flops(self) -> int:
        """Of making one token's keys and values from that, in all layers."""
        return 2 * self.hidden_size * sum(one.kv_elements for one in self.attention)

    def inputs_over_kv(self, kv_dtype: str) -> float:
        """Size of layer inputs over that of keys and values: G / 2 with G query heads for each KV
        head, if both have 16 bits and queries are as wide as the hidden state."""
        return self.input_bytes / self.kv_bytes_per_token(kv_dtype)

    @property
    def layer_work(self) -> list[float]:
        """By layer, the bytes of weights that a decode step reads: what it takes where reading
        binds, and where every weight has as many bits, in proportion to what it multiplies."""
        return [layer.params_read(_STEP_ROWS) * self._layer_bytes for layer in self.layers]

    @property
    def head_work(self) -> float:
        """The same, of the output projection: every row of a decode step is sampled after."""
        return DTYPE_BYTES[self.dtype] * self.head_params

    def cut(self, num_slices: int) -> Sequence["ModelShape"]:
        """The model as ``num_slices`` pipeline slices, as a run cuts it over nodes alike.

        Raises UsageError when there are fewer layers than slices.
        """
        speeds = [1.0] * num_slices
        return [
            self._slice(part) for part in balance_layers(self.layer_work, self.head_work, speeds)
        ]

    def _slice(self, part: LayerSlice) -> "ModelShape":
        return replace(
            self,
            layers=self.layers[part.first : part.last],
            embedding_params=self.embedding_params if part.is_first else 0,
            head_params=self.head_params if part.is_last else 0,
        )
