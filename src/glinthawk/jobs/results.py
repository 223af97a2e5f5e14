"""Result lines as OpenAI's batch API writes them.

Every id is made from the line's number: a line that is answered again after a kill says the same.
"""

from typing import Any

import msgspec

from glinthawk.core.errors import RequestError
from glinthawk.core.sequence import FinishReason, Sequence
from glinthawk.jobs.echo import echo_logprobs, echo_text
from glinthawk.jobs.lines import Refusal, Task
from glinthawk.jobs.logprobs import chat_logprobs, completion_logprobs
from glinthawk.jobs.prompt_logprobs import prompt_logprobs, prompt_scores
from glinthawk.jobs.text import Text

__all__ = ["answer_line", "answer_text", "refusal_line"]

#: One line has a place of its own in an alphabetical sort up to a thousand million lines.
_DIGITS = 9


def answer_text(text: Text, sequence: Sequence) -> str:
    """Text of a finished sequence, without what ended it: a stop string or a stop token."""
    request = sequence.request
    ended_by_token = (
        sequence.finish_reason is FinishReason.STOP and sequence.output[-1] in request.stop_ids
    )
    return text.final_text(
        request.prompt, sequence.output, request.params, drop_last=ended_by_token
    )


def answer_line(task: Task, choices: list[Sequence], text: Text, created: int) -> bytes:
    """The result line of a task whose choices have all finished, in their order."""
    is_chat = task.kind == "chat"
    prompt_tokens = sum(len(prompt.ids) for prompt in task.prompts)
    completion_tokens = sum(len(sequence.output) for sequence in choices)
    body: dict[str, Any] = {
        "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{task.line:0{_DIGITS}}",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": created,
        "model": task.model,
        "choices": [_choice(task, i, choices, text) for i in range(len(choices))],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }
    if is_chat and task.prompt_logprobs is not None:
        body["prompt_logprobs"] = prompt_logprobs(choices[0], text, task.prompt_logprobs)
    return _line(task.line, task.custom_id, 200, body, None)


def refusal_line(refusal: Refusal) -> bytes:
    """The result line of a line that cannot be answered; only these have a non-null ``error``."""
    error: RequestError = refusal.error
    body = {
        "error": {
            "message": str(error),
            "type": "invalid_request_error",
            "param": error.param,
            "code": error.code,
        }
    }
    brief = {"code": error.code, "message": str(error)}
    return _line(refusal.line, refusal.custom_id, 400, body, brief)


def _choice(task: Task, index: int, choices: list[Sequence], text: Text) -> dict[str, Any]:
    sequence = choices[index]
    assert sequence.finish_reason is not None
    answer = answer_text(text, sequence)
    choice: dict[str, Any] = {"index": index}
    asked = task.params.logprobs is not None
    if task.kind == "chat":
        choice["message"] = {"role": "assistant", "content": answer}
        choice["logprobs"] = chat_logprobs(sequence, text) if asked else None
    else:
        choice["text"] = answer
        choice["logprobs"] = completion_logprobs(sequence, text) if asked else None
        # All choices of a prompt say what is known of it, from the first.
        _add_prompt(choice, task, index, choices[index - index % task.params.n], text)
    choice["finish_reason"] = sequence.finish_reason.value
    if task.return_token_ids:
        choice["token_ids"] = sequence.output
    return choice


def _add_prompt(
    choice: dict[str, Any], task: Task, index: int, scored: Sequence, text: Text
) -> None:
    """What a completion says of its prompt, of which ``scored`` has the scores."""
    if task.echo:
        prompt = task.prompt_of(index)
        choice["text"] = echo_text(prompt, text) + choice["text"]
        if (num_top := task.params.logprobs) is not None:
            scores = prompt_scores(scored)
            choice["logprobs"] = echo_logprobs(prompt, scores, num_top, choice["logprobs"], text)
    if task.prompt_logprobs is not None:
        choice["prompt_logprobs"] = prompt_logprobs(scored, text, task.prompt_logprobs)


def _line(
    line: int,
    custom_id: str | None,
    status_code: int,
    body: dict[str, Any],
    error: dict[str, str] | None,
) -> bytes:
    # The journal knows a line by these first and last bytes: see finished.py.
    result = {
        "id": f"batch_req_{line:0{_DIGITS}}",
        "custom_id": custom_id,
        "response": {
            "status_code": status_code,
            "request_id": f"req_{line:0{_DIGITS}}",
            "body": body,
        },
        "error": error,
    }
    return msgspec.json.encode(result) + b"\n"
