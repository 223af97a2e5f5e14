"""The lines of a job that have no result yet."""

from collections.abc import Callable, Iterator
from contextlib import closing

from glinthawk.core.errors import RequestError
from glinthawk.jobs.input import InputLines
from glinthawk.jobs.journal import Journal
from glinthawk.jobs.lines import Refusal, read_custom_id
from glinthawk.jobs.seen import SeenIds

__all__ = ["unanswered_lines"]


def unanswered_lines(
    journal: Journal, refuse: Callable[[Refusal], None]
) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each; those whose id stands on an earlier line are refused."""
    survey = journal.survey
    with closing(InputLines(journal.source, survey.num_bytes)) as lines:
        seen = SeenIds(survey.num_requests, survey.num_bytes, lines.custom_id_at)
        for line, offset, raw in lines:
            custom_id = read_custom_id(raw)
            repeated = custom_id is not None and not seen.add(custom_id, offset)
            if journal.is_finished(line):
                continue
            if repeated:
                refuse(Refusal(line, custom_id, _repeated()))
                continue
            yield line, raw


def _repeated() -> RequestError:
    return RequestError(
        "this custom_id stands on an earlier line; give each line its own",
        param="custom_id",
        code="duplicate_custom_id",
    )
