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
from glinthawk.jobs.pooling_replies import embedding_body, ranking_body, score_body
from glinthawk.jobs.replies import ChatReply, call_id, read_reply
from glinthawk.jobs.responses import response_body
from glinthawk.jobs.text import Text
from glinthawk.jobs.vllm_logprobs import prompt_logprobs, prompt_scores

__all__ = ["answer_body", "answer_line", "answer_text", "refusal_line"]

#: One line has a place of its own in an alphabetical sort up to a thousand million lines.
_DIGITS = 9
#: Codes of what this run, and no other, fails at.
_OURS = frozenset({"batch_expired", "kv_memory_exceeded"})
_STATUS = {"model_not_found": 404}


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
    body = answer_body(task, f"{task.line:0{_DIGITS}}", choices, text, created)
    return _line(task.line, task.custom_id, 200, body)


def answer_body(
    task: Task, number: str, choices: list[Sequence], text: Text, created: int
) -> dict[str, Any]:
    """What the API answers, under an id that ends with ``number``."""
    if task.wish is not None:
        return _pooled(task, number, choices, created)
    write = {"chat": _chat, "completion": _completion, "response": _response}[task.kind]
    return write(task, number, choices, text, created)


def _pooled(task: Task, number: str, choices: list[Sequence], created: int) -> dict[str, Any]:
    assert task.wish is not None
    name, write = {
        "embedding": ("embd", embedding_body),
        "score": ("score", score_body),
        "ranking": ("rerank", ranking_body),
    }[task.kind]
    usage = {name: n for name, n in _usage(task, choices).items() if name != "completion_tokens"}
    head = {"id": f"{name}-{number}", "created": created, "model": task.model, "usage": usage}
    return write(head, task.wish, choices)


def _completion(
    task: Task, number: str, choices: list[Sequence], text: Text, created: int
) -> dict[str, Any]:
    return {
        "id": f"cmpl-{number}",
        "object": "text_completion",
        "created": created,
        "model": task.model,
        "choices": [_text_choice(task, i, choices, text) for i in range(len(choices))],
        "usage": _usage(task, choices),
    }


def _chat(
    task: Task, number: str, choices: list[Sequence], text: Text, created: int
) -> dict[str, Any]:
    body = {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": created,
        "model": task.model,
        "choices": [_chat_choice(task, i, sequence, text) for i, sequence in enumerate(choices)],
        "usage": _usage(task, choices),
    }
    if task.prompt_logprobs is not None:
        body["prompt_logprobs"] = prompt_logprobs(choices[0], text, task.prompt_logprobs)
    return body


def _response(
    task: Task, number: str, choices: list[Sequence], text: Text, created: int
) -> dict[str, Any]:
    [sequence] = choices
    asked = task.params.logprobs is not None
    usage = _usage(task, choices)
    return response_body(
        {
            "id": f"resp_{number}",
            "created_at": created,
            "model": task.model,
            "usage": {
                "input_tokens": usage["prompt_tokens"],
                "output_tokens": usage["completion_tokens"],
                "total_tokens": usage["total_tokens"],
            },
        },
        task.reply.echoed or {},
        read_reply(task.reply, answer_text(text, sequence), text.special),
        is_cut=sequence.finish_reason is FinishReason.LENGTH,
        logprobs=chat_logprobs(sequence, text)["content"] if asked else None,
    )


def _usage(task: Task, choices: list[Sequence]) -> dict[str, int]:
    prompt = sum(len(prompt.ids) for prompt in task.prompts)
    output = sum(len(sequence.output) for sequence in choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
    }


def refusal_line(refusal: Refusal) -> bytes:
    """The result line of a line that cannot be answered, here (it has an ``error`` and no response)
    or anywhere (it has a response that says so)."""
    error: RequestError = refusal.error
    if error.code in _OURS:
        brief = {"code": error.code, "message": str(error)}
        return _result(refusal.line, refusal.custom_id, None, brief)
    body = {
        "error": {
            "message": str(error),
            "type": "invalid_request_error",
            "param": error.param,
            "code": error.code,
        }
    }
    return _line(refusal.line, refusal.custom_id, _STATUS.get(error.code, 400), body)


def _text_choice(task: Task, index: int, choices: list[Sequence], text: Text) -> dict[str, Any]:
    sequence, asked = choices[index], task.params.logprobs is not None
    choice: dict[str, Any] = {
        "index": index,
        "text": answer_text(text, sequence),
        "logprobs": completion_logprobs(sequence, text) if asked else None,
    }
    # All choices of a prompt say what is known of it, from the first.
    _add_prompt(choice, task, index, choices[index - index % task.params.n], text)
    return choice | _ending(task, sequence)


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


def _chat_choice(task: Task, index: int, sequence: Sequence, text: Text) -> dict[str, Any]:
    asked = task.params.logprobs is not None
    reply = read_reply(task.reply, answer_text(text, sequence), text.special)
    return {
        "index": index,
        "message": _message(task, sequence.request.seed, reply),
        "logprobs": chat_logprobs(sequence, text) if asked else None,
        **_ending(task, sequence, calls=bool(reply.calls)),
    }


def _message(task: Task, seed: int, reply: ChatReply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.content}
    if reply.reasoning is not None:
        message["reasoning_content"] = reply.reasoning
    if reply.calls:
        message["tool_calls"] = [
            {
                "id": call_id(task.reply, task.custom_id, seed, number),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for number, call in enumerate(reply.calls)
        ]
    return message


def _ending(task: Task, sequence: Sequence, *, calls: bool = False) -> dict[str, Any]:
    reason = sequence.finish_reason
    assert reason is not None
    told = "tool_calls" if calls and reason is FinishReason.STOP else reason.value
    ids = {"token_ids": sequence.output} if task.return_token_ids else {}
    return {"finish_reason": told, **ids}


def _line(line: int, custom_id: str | None, status_code: int, body: dict[str, Any]) -> bytes:
    response = {
        "status_code": status_code,
        "request_id": f"req_{line:0{_DIGITS}}",
        "body": body,
    }
    return _result(line, custom_id, response, None)


def _result(
    line: int,
    custom_id: str | None,
    response: dict[str, Any] | None,
    error: dict[str, str] | None,
) -> bytes:
    # The journal knows a line and its outcome by these first bytes: see finished.py.
    result = {
        "id": f"batch_req_{line:0{_DIGITS}}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
    return msgspec.json.encode(result) + b"\n"
