"""Results that a run with ``--retry-errors`` makes again."""

import msgspec

from glinthawk.jobs.finished import is_success

__all__ = ["is_retried"]

_CUTS = (b'"finish_reason":"length"', b'"reason":"max_output_tokens"')


class _Usage(msgspec.Struct):
    total_tokens: int


class _Body(msgspec.Struct):
    usage: _Usage


class _Response(msgspec.Struct):
    body: _Body


class _Result(msgspec.Struct):
    response: _Response


_results = msgspec.json.Decoder(_Result)


def is_retried(result: bytes, outgrown: int | None) -> bool:
    """Whether ``result`` is an error, or an answer that the length ``outgrown``, which was the
    longest, may have cut off. Of several choices that is not known, and none of them changes by
    being made again."""
    if not is_success(result):
        return True
    if outgrown is None or not any(cut in result for cut in _CUTS):
        return False
    return _results.decode(result).response.body.usage.total_tokens >= outgrown
