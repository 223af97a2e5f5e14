"""Multipart uploads, streamed to a file as they come: no more than a chunk is in memory."""

from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from glinthawk.serve.api_errors import ApiError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

__all__ = ["Upload", "receive_upload"]

#: Bytes of all fields but the file, and of headers of a part.
_MOST_FIELDS, _MOST_HEADERS = 1 << 16, 1 << 14
#: That a field takes beside its name and value.
_FIELD_BYTES = 256
#: Bytes around the parts.
_SLACK = 1 << 20


@dataclass(slots=True)
class Upload:
    """What came: the file's name as the client has it, its size, and the other fields."""

    filename: str | None = None
    num_bytes: int = 0
    fields: dict[str, str] = field(default_factory=dict)


async def receive_upload(
    content_type: str, chunks: AsyncIterator[bytes], place: Path, most_bytes: int
) -> Upload:
    """Write the part ``file`` to ``place``. Raises ApiError for what is no such form or is too
    large, OSError for a disk that is full; what was written has to be removed then."""
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise ApiError(400, "an upload is multipart/form-data, with file and purpose")
    with closing(_Form(place, most_bytes)) as form:
        try:
            parser = MultipartParser(
                options[b"boundary"], form.callbacks(), most_bytes + _MOST_FIELDS + _SLACK
            )
            async for chunk in chunks:
                # Whoever else calls does not wait for this disk.
                if await run_in_threadpool(parser.write, chunk) != len(chunk):
                    raise _too_large(most_bytes)
            parser.finalize()
        except FormParserError as error:
            raise ApiError(400, f"the form cannot be read ({error})") from error
        if not form.is_whole:
            raise ApiError(400, "the form ends in its middle")
        return form.upload


class _Form:
    """Takes the pieces in that the parser finds."""

    def __init__(self, place: Path, most_bytes: int) -> None:
        self.upload = Upload()
        self.is_whole = False
        self._most_bytes = most_bytes
        self._file: BinaryIO = place.open("xb")
        self._header, self._value = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._num_header_bytes = self._num_field_bytes = 0
        self._text = bytearray()

    def close(self) -> None:
        self._file.close()

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._take_header,
            "on_header_value": self._take_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._take_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._headers.clear()
        self._text.clear()
        self._num_header_bytes = 0

    def _take_header(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._header += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._value += data[start:end]

    def _count_header(self, num_bytes: int) -> None:
        self._num_header_bytes += num_bytes
        if self._num_header_bytes > _MOST_HEADERS:
            raise ApiError(400, "the form has a part with too long headers")

    def _end_header(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode(errors="replace")
        self._count_fields(_FIELD_BYTES + len(self._name))
        if self._name == "file":
            if self.upload.filename is not None:
                raise ApiError(400, "the form has more than one file", param="file")
            self.upload.filename = options.get(b"filename", b"").decode(errors="replace")

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "file":
            self.upload.num_bytes += end - start
            if self.upload.num_bytes > self._most_bytes:
                raise _too_large(self._most_bytes)
            self._file.write(memoryview(data)[start:end])
            return
        self._count_fields(end - start)
        self._text += data[start:end]

    def _count_fields(self, num_bytes: int) -> None:
        self._num_field_bytes += num_bytes
        if self._num_field_bytes > _MOST_FIELDS:
            raise ApiError(400, "the form has too many fields, or too long ones")

    def _end_part(self) -> None:
        if self._name != "file":
            self.upload.fields[self._name] = self._text.decode(errors="replace")

    def _end(self) -> None:
        self.is_whole = True


def _too_large(most_bytes: int) -> ApiError:
    return ApiError(
        413, f"a file has at most {most_bytes} bytes here (--max-file-size)", param="file"
    )
