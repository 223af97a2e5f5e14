"""A conversation with a Worker, without sockets."""

from collections.abc import Sequence

import torch

from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.spec import DTYPE_BYTES, AttentionLayer
from glinthawk.tier2.pages.page_files import PageFile
from glinthawk.tier2.worker import Answer, Worker
from glinthawk.wire.messages import (
    VERSION,
    Attend,
    Attended,
    Begin,
    Fault,
    FromTier1,
    Open,
    Opened,
    Spans,
    Store,
    encode,
)

__all__ = ["NONE", "Talk", "raw"]

NONE = Spans([], [], [])


def raw(tensor: torch.Tensor) -> bytes:
    """The bytes of a frame."""
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


class Talk:
    """One client of one worker, with the frames of a known model."""

    def __init__(
        self,
        layers: Sequence[AttentionLayer],
        pages: int = 16,
        dtype: str = "float32",
        device: str = "cpu",
        files: Sequence[PageFile] = (),
    ) -> None:
        self.layers = tuple(layers)
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.dtype_name = dtype
        elements = sum(layer.kv_elements for layer in layers)
        self.present: set[bytes] = set()
        num_bytes = pages * PAGE_TOKENS * DTYPE_BYTES[dtype] * elements
        self.worker = Worker(num_bytes, lambda client: client in self.present, device, files)

    def say(self, message: FromTier1, *frames: bytes, client: bytes = b"first") -> Answer | None:
        return self.say_raw(encode(message), *frames, client=client)

    def say_raw(self, *frames: bytes, client: bytes = b"first") -> Answer | None:
        """Frames arrive as ZeroMQ gives them: writable memory of their own."""
        return self.worker.handle(client, [memoryview(bytearray(frame)) for frame in frames])

    def fault(self, message: FromTier1, *frames: bytes, client: bytes = b"first") -> Fault:
        """The Fault that must be the answer."""
        answer = self.say(message, *frames, client=client)
        assert answer is not None
        assert isinstance(answer[0], Fault), answer[0]
        assert not answer[1]
        assert answer[0].text
        return answer[0]

    def open(self, client: bytes = b"first") -> Opened:
        message = Open(VERSION, list(self.layers), self.dtype_name, self.dtype_name)
        answer = self.say(message, client=client)
        assert answer is not None
        assert isinstance(answer[0], Opened), answer[0]
        return answer[0]

    def frames(self, layer: int, seed: int, rows: int) -> list[bytes]:
        """q, k, v of ``rows`` tokens."""
        spec = self.layers[layer]
        random = torch.Generator().manual_seed(seed)
        shapes = [
            (rows, spec.num_heads, spec.head_dim),
            (rows, spec.num_kv_heads, spec.head_dim),
            (rows, spec.num_kv_heads, spec.value_dim),
        ]
        return [raw(torch.randn(s, generator=random).to(self.dtype)) for s in shapes]

    def tensors(self, layer: int, seed: int, rows: int) -> list[torch.Tensor]:
        """The same as tensors."""
        spec = self.layers[layer]
        heads = (spec.num_heads, spec.num_kv_heads, spec.num_kv_heads)
        return [
            torch.frombuffer(bytearray(frame), dtype=self.dtype).view(rows, number, -1)
            for frame, number in zip(self.frames(layer, seed, rows), heads, strict=True)
        ]

    def prefill(self, step: int, sequence: int, length: int, seed: int) -> Answer | None:
        """A prompt in all layers; the last answer."""
        assert self.say(Begin(step, NONE, Spans([sequence], [0], [length]))) is None
        return self.store_all(step, length, seed)

    def store_all(self, step: int, length: int, seed: int) -> Answer | None:
        """Keys and values of a step's prompts in all layers; the last answer."""
        answers = [
            self.say(Store(step, layer), *self.frames(layer, seed, length)[1:])
            for layer in range(len(self.layers))
        ]
        assert answers[:-1] == [None] * (len(answers) - 1)
        return answers[-1]

    def decode(self, step: int, sequence: int, position: int, seed: int) -> list[torch.Tensor]:
        """A decode row in all layers; the outputs (1, H, Dv)."""
        assert self.say(Begin(step, Spans([sequence], [position], [1]), NONE)) is None
        return [
            self.output(layer, self.say(Attend(step, layer), *self.frames(layer, seed, 1)))
            for layer in range(len(self.layers))
        ]

    def output(self, layer: int, answer: Answer | None) -> torch.Tensor:
        """The frame of an Attended."""
        assert answer is not None
        message, frames = answer
        assert isinstance(message, Attended), message
        assert message.layer == layer
        (frame,) = frames
        spec = self.layers[layer]
        output = torch.frombuffer(bytearray(frame), dtype=self.dtype)
        return output.view(-1, spec.num_heads, spec.value_dim)
