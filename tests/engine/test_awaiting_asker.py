"""Answers that are awaited: nobody is too slow for the last of them."""

import asyncio

import pytest

from glinthawk.core.errors import GlinthawkError
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import FinishReason, Request, Sequence
from glinthawk.engine.awaiting_asker import AwaitingAsker

_ASKED = [Request(number, (5, 6), SamplingParams(), 0, 9) for number in range(2)]


def _asker() -> AwaitingAsker:
    return AwaitingAsker(_ASKED, lambda _sequence, _token: False)


def _grown(number: int, length: int, reason: FinishReason | None = None) -> Sequence:
    return Sequence(_ASKED[number], output=[7] * length, finish_reason=reason)


async def _hear() -> None:
    """What the engine's thread has said comes before whoever asks for it next."""
    await asyncio.sleep(0)


def test_what_ends_while_somebody_looks_is_seen() -> None:
    async def look() -> list[list[tuple[int, int]]]:
        asker, seen = _asker(), []
        asker.take(_grown(0, 1))
        async for newest in asker.steps():
            seen.append([(one.request.id, len(one.output)) for one in newest])
            if len(seen) == 1:
                for number in range(2):
                    asker.take(_grown(number, 2))
                    asker.take(_grown(number, 3, FinishReason.LENGTH))
                asker.end(None)
                await _hear()
        return seen

    assert asyncio.run(look()) == [[(0, 1)], [(0, 3), (1, 3)]]


def test_an_error_comes_after_what_was_answered() -> None:
    async def look() -> list[int]:
        asker, seen = _asker(), []
        asker.take(_grown(0, 1))
        with pytest.raises(GlinthawkError, match="lost"):
            async for newest in asker.steps():
                seen += [len(one.output) for one in newest]
                if len(seen) == 1:
                    asker.take(_grown(1, 4, FinishReason.STOP))
                    asker.end(GlinthawkError("lost"))
                    await _hear()
        return seen

    assert asyncio.run(look()) == [1, 4]


def test_a_step_is_kept_as_it_was_and_none_is_made_of_a_part_of_a_prompt() -> None:
    async def look() -> list[list[int]]:
        asker, sequence = _asker(), _grown(0, 0)
        asker.take(sequence)
        sequence.output += [8]
        asker.take(sequence)
        sequence.output += [9]
        asker.end(None)
        return [one.output async for newest in asker.steps() for one in newest]

    assert asyncio.run(look()) == [[8]]
