"""Between text and token ids: tokenizer, chat template and the strings that end an answer."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from glinthawk.core.errors import RequestError
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Sequence as TokenSequence
from glinthawk.core.structured_outputs import StructuredOutputsParams
from glinthawk.jobs.chat_messages import read_messages
from glinthawk.jobs.chat_template import ChatTemplate
from glinthawk.jobs.conversation import Conversation
from glinthawk.jobs.detokenize import Detokenizer
from glinthawk.jobs.ending import Ending
from glinthawk.jobs.spelling import Spelling
from glinthawk.jobs.text_lengths import LONG_TEXT, check_length
from glinthawk.tokens.generation_defaults import load_eos_token_ids
from glinthawk.tokens.grammars import Grammars
from glinthawk.tokens.tokenizer import load_tokenizer

__all__ = ["Text"]


class Text:
    """A model's tokenizer, or its absence: then only token ids go in and come out."""

    def __init__(self, tokenizer: Any | None, now: float | None = None) -> None:
        self._tokenizer = tokenizer
        self._now = datetime.fromtimestamp(time.time() if now is None else now, UTC)
        self._detokenizer = Detokenizer(tokenizer)
        self._spelling = Spelling(tokenizer, self._detokenizer)
        self._ending = Ending(self._detokenizer, self._spelling)
        self._grammars = Grammars(tokenizer)
        self._bad_tokens = lru_cache(maxsize=256)(self._encode_bad)

    @classmethod
    def load(cls, model: str | Path, trust: bool = False, now: float | None = None) -> "Text":
        """The tokenizer of a model folder or hub name. Code that comes with it runs only with
        ``trust``. Chat templates that say the date say that of ``now``, in seconds since 1970, in
        UTC; None is the time of this call."""
        return cls(load_tokenizer(model, trust), now)

    @property
    def tokenizer(self) -> Any | None:
        """As ``transformers`` made it; None if the model has none."""
        return self._tokenizer

    def encode(
        self, text: str, most_tokens: int | None = None, param: str = "prompt", **options: Any
    ) -> tuple[int, ...]:
        """Token ids of a plain prompt, with the special tokens that the model expects around it;
        ``options`` are the tokenizer's. Raises RequestError, which names ``param``, for what cannot
        be tokenised, or is far longer than ``most_tokens``."""
        tokenizer = self._need("give the prompt as a list of token ids", param)
        try:
            if most_tokens is not None:
                check_length(text, most_tokens, self._encode_part, param)
            return tuple(tokenizer.encode(text, verbose=False, **options))
        except (TypeError, ValueError) as error:
            raise RequestError(
                f"the prompt cannot be tokenized ({error}); give valid Unicode text", param=param
            ) from error

    def _encode_part(self, text: str) -> list[int]:
        assert self._tokenizer is not None
        return list(self._tokenizer.encode(text, add_special_tokens=False, verbose=False))

    def encode_chat(self, said: object, most_tokens: int | None = None) -> tuple[int, ...]:
        """Token ids of a ``Conversation``, or of messages alone, up to where the assistant speaks.
        Checks the messages; raises as ``encode``."""
        talk = said if isinstance(said, Conversation) else Conversation(messages=said)
        if self._tokenizer is None:
            read_messages(talk.messages)
        self._need("give token ids as a prompt to /v1/completions", "messages")
        if self._chat is None:
            raise RequestError(
                "this model has no chat template; use /v1/completions", param="messages"
            )
        messages = self._chat.prepare(talk)
        if most_tokens is not None and len(repr(messages)) > LONG_TEXT:
            rendered = self._chat.render(messages, talk)
            check_length(rendered, most_tokens, self._encode_part, "messages")
        return self._chat.encode(messages, talk)

    @cached_property
    def _chat(self) -> ChatTemplate | None:
        has_template = self._tokenizer is not None and self._tokenizer.chat_template
        return ChatTemplate(self._tokenizer, self._now) if has_template else None

    @property
    def template(self) -> str:
        """The chat template; empty where there is none."""
        return "" if self._chat is None else self._chat.text

    @property
    def knows_tools(self) -> bool:
        """Whether the chat template says which tools there are."""
        return self._chat is not None and self._chat.knows_tools

    def bad_tokens(self, params: SamplingParams) -> tuple[tuple[int, ...], ...]:
        """Token ids of ``params.bad_words``, within a text and at its beginning."""
        return self._bad_tokens(tuple(params.bad_words)) if params.bad_words else ()

    def _encode_bad(self, words: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
        self._need("use logit_bias", "bad_words")
        spelled: list[tuple[int, ...]] = []
        for word in words:
            plain = tuple(self._encode_part(word.lstrip()))
            behind = tuple(self._encode_part(" " + word.lstrip()))
            # As vLLM: a space that is a token of its own leads to what is banned already.
            spelled += [plain] if len(plain) != len(behind) or plain == behind else [plain, behind]
        return tuple(ids for ids in spelled if ids)

    def require_stop_strings(self) -> None:
        """Raise RequestError where stop strings could never be found."""
        self._need("use stop_token_ids", "stop")

    def require_grammar(
        self, wanted: StructuredOutputsParams, param: str = "structured_outputs"
    ) -> None:
        """Raise RequestError, which names ``param``, for a constraint that cannot be compiled."""
        try:
            self._grammars.matcher(wanted)
        except ValueError as error:
            raise RequestError(
                f"{param}: {wanted.kind} cannot be compiled ({error}); correct it, or leave it out",
                param=param,
            ) from error

    @property
    def special(self) -> Mapping[int, str]:
        """Spelling of each token that is not shown in a text, by id."""
        return {} if self._tokenizer is None else self._detokenizer.special

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids`` without special tokens; an unfinished character becomes U+FFFD."""
        return "" if self._tokenizer is None else self._detokenizer.decode(ids)

    def answer(self, prompt: Sequence[int], output: Sequence[int]) -> str:
        """What ``output`` adds to the text of ``prompt``."""
        return "" if self._tokenizer is None else self._detokenizer.after(prompt, output)

    def token_text(self, token: int) -> str:
        """What one token says in the middle of a text, special or not."""
        return f"token_id:{token}" if self._tokenizer is None else self._spelling.text(token)

    def token_name(self, token: int) -> str:
        """Like ``token_text``; parts of characters are named by their bytes."""
        return f"token_id:{token}" if self._tokenizer is None else self._spelling.name(token)

    def token_bytes(self, token: int, text: str) -> list[int] | None:
        """Bytes of a token that says ``text``; None if they are not known."""
        return None if self._tokenizer is None else self._spelling.raw(token, text)

    def token_pieces(self, prompt: Sequence[int], output: Sequence[int]) -> list[str]:
        """What each token of ``output`` adds to the text; together they are ``answer``."""
        if self._tokenizer is None:
            return [""] * len(output)
        return self._detokenizer.pieces(prompt, output)

    def is_special(self, token: int) -> bool:
        """Whether a token is not shown in a text."""
        return self._tokenizer is None or token in self._detokenizer.special

    def stop_found(self, sequence: TokenSequence, token: int) -> bool:
        """Whether ``token`` completes a stop string of ``sequence``: what engines ask."""
        request = sequence.request
        if not request.params.stop:
            return False
        return self.find_stop(request.prompt, [*sequence.output, token], request.params)

    def find_stop(
        self, prompt: Sequence[int], output: Sequence[int], params: SamplingParams
    ) -> bool:
        """Whether a stop string is in the output; call it after every token.

        Decodes a few tokens at the end, and all of them only to confirm a hit.
        """
        if not params.stop or len(output) <= params.min_tokens:
            return False
        if not self._ending.is_near(prompt, output, params):
            return False
        return self._ending.cut(prompt, output, params) is not None

    def stop_string(
        self, prompt: Sequence[int], output: Sequence[int], params: SamplingParams
    ) -> str | None:
        """The first stop string in the text of ``output``; None where there is none."""
        if self._tokenizer is None or not params.stop:
            return None
        return self._ending.stop_string(prompt, output, params)

    def final_text(
        self,
        prompt: Sequence[int],
        output: Sequence[int],
        params: SamplingParams,
        *,
        drop_last: bool = False,
    ) -> str:
        """Text of a finished output up to the earliest stop string, which is left out unless
        ``params`` keep it. ``drop_last`` says that the last token ended the answer by its id: it is
        no part of the text either.
        """
        text = output[:-1] if drop_last and not params.include_stop_str_in_output else output
        if self._tokenizer is None:
            return ""
        if not params.stop:
            return self._ending.whole(prompt, text, params)
        # A special token shows nothing, but it may end a stop string.
        named = drop_last and output[-1] in self._ending.named(params)
        cut = self._ending.cut(prompt, output if named else text, params)
        return self._ending.whole(prompt, text, params) if cut is None else cut

    def eos_token_ids(self, model: str | Path, trust: bool = False) -> frozenset[int]:
        """Token ids that end an answer of ``model``, as it and its tokenizer say."""
        own = getattr(self._tokenizer, "eos_token_id", None)
        return load_eos_token_ids(model, trust) | (frozenset() if own is None else {own})

    def _need(self, advice: str, param: str) -> Any:
        if self._tokenizer is None:
            raise RequestError(f"this model has no tokenizer files: {advice}", param=param)
        return self._tokenizer
