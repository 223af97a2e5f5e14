"""Between text and token ids: tokenizer, chat template and the strings that end an answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glinthawk.core.errors import ModelError, RequestError
from glinthawk.core.sampling import SamplingParams
from glinthawk.jobs.messages import read_messages
from glinthawk.jobs.stops import stop_start

__all__ = ["Text"]

#: A folder with none of these has no tokenizer. Patterns, as some models bring their own names.
_TOKENIZER_FILES = ("tokenizer*", "vocab.*", "*.tiktoken", "*.model", "tekken.json")

#: The first characters of a tail of tokens may be wrong: a cut character, a swallowed space.
_SLACK = 8

_REPLACEMENT = "\ufffd"


class Text:
    """A model's tokenizer, or its absence: then only token ids go in and come out."""

    def __init__(self, tokenizer: Any | None) -> None:
        self._tokenizer = tokenizer
        self._token_texts: dict[int, str] = {}

    @classmethod
    def load(cls, model: str | Path) -> "Text":
        """The tokenizer of a model folder or hub name. Nothing of the model's own code is run."""
        folder = Path(model)
        if folder.is_dir() and not any(any(folder.glob(name)) for name in _TOKENIZER_FILES):
            return cls(None)
        from transformers import AutoTokenizer

        try:
            return cls(AutoTokenizer.from_pretrained(str(model), trust_remote_code=False))
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(
                f"the tokenizer of {model} cannot be loaded ({reason}); repair its files, or give "
                "a model folder without tokenizer files and prompts as token ids"
            ) from error

    @property
    def has_tokenizer(self) -> bool:
        return self._tokenizer is not None

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a plain prompt, with the special tokens that the model expects around it."""
        tokenizer = self._need("give the prompt as a list of token ids", "prompt")
        try:
            return tuple(tokenizer.encode(text, add_special_tokens=True, verbose=False))
        except (TypeError, ValueError) as error:
            raise RequestError(
                f"the prompt cannot be tokenized ({error}); give valid Unicode text", param="prompt"
            ) from error

    def encode_chat(self, messages: object) -> tuple[int, ...]:
        """Token ids of a conversation up to where the assistant speaks. Checks ``messages``."""
        conversation = read_messages(messages)
        advice = "give token ids as a prompt to /v1/completions"
        tokenizer = self._need(advice, "messages")
        if not tokenizer.chat_template:
            raise RequestError(
                "this model has no chat template; use /v1/completions", param="messages"
            )
        try:
            ids = tokenizer.apply_chat_template(
                conversation,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                tokenizer_kwargs={"verbose": False},
            )
        except Exception as error:
            # The template is a program that came with the model: it may fail in any way it likes.
            raise RequestError(
                f"the chat template refused the messages ({error}); check roles and their order",
                param="messages",
            ) from error
        return tuple(ids)

    def require_stop_strings(self) -> None:
        """Raise RequestError where stop strings could never be found."""
        self._need("use stop_token_ids", "stop")

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids`` without special tokens; an unfinished character becomes U+FFFD."""
        if self._tokenizer is None:
            return ""
        return str(
            self._tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def token_text(self, token: int) -> str:
        """What one token says, special or not, as logprobs name it."""
        if token not in self._token_texts:
            self._token_texts[token] = self._spell(token)
        return self._token_texts[token]

    def _spell(self, token: int) -> str:
        if self._tokenizer is None:
            return f"token_id:{token}"
        text = str(self._tokenizer.decode([token], clean_up_tokenization_spaces=False))
        piece = str(self._tokenizer.convert_ids_to_tokens(token))
        # SentencePiece swallows the space of a text's first token.
        return f" {text}" if piece.startswith("\u2581") and not text.startswith(" ") else text

    def find_stop(self, output: Sequence[int], params: SamplingParams) -> bool:
        """Whether a stop string is in the output; call it after every token.

        Decodes a few tokens at the end, and all of them only to confirm a hit.
        """
        if not params.stop or len(output) <= params.min_tokens:
            return False
        newest = len(self.token_text(output[-1]))
        tail = self._tail(output, newest + max(map(len, params.stop)) + _SLACK)
        if not any(stop in tail for stop in params.stop):
            return False
        return self._stop_start(self.decode(output), output, params) is not None

    def final_text(
        self, output: Sequence[int], params: SamplingParams, *, drop_last: bool = False
    ) -> str:
        """Text of a finished output up to the earliest stop string, which is left out.

        ``drop_last`` leaves out the last token, for one that ended the answer by its id.
        """
        text = self.decode(output[:-1] if drop_last else output)
        if not params.stop:
            return text
        return text[: self._stop_start(text, output, params)]

    def eos_token_ids(self, model: str | Path) -> frozenset[int]:
        """Token ids that end an answer of ``model``, as it and its tokenizer say."""
        from transformers import AutoConfig, GenerationConfig

        try:
            ids = GenerationConfig.from_pretrained(str(model)).eos_token_id
        except OSError:
            ids = None
        if ids is None:
            try:
                config = AutoConfig.from_pretrained(str(model), trust_remote_code=False)
            except (OSError, ValueError) as error:
                raise ModelError(f"config.json of {model} cannot be read: {error}") from error
            ids = getattr(config.get_text_config(), "eos_token_id", None)
        own = getattr(self._tokenizer, "eos_token_id", None)
        return _as_set(ids) | _as_set(own)

    def _need(self, advice: str, param: str) -> Any:
        if self._tokenizer is None:
            raise RequestError(f"this model has no tokenizer files: {advice}", param=param)
        return self._tokenizer

    def _stop_start(self, text: str, output: Sequence[int], params: SamplingParams) -> int | None:
        # What stands in the first min_tokens tokens ends nothing.
        immune = len(self.decode(output[: params.min_tokens])) if params.min_tokens else 0
        return stop_start(text, params.stop, immune)

    def _tail(self, output: Sequence[int], num_chars: int) -> str:
        """Text of the last tokens, at least ``num_chars`` of it where there is so much."""
        count = num_chars // 3 + 4
        text = self.decode(output[-count:])
        while len(text) < num_chars and count < len(output):
            count *= 2
            text = self.decode(output[-count:])
        # Byte fallback spoils a whole run of bytes that begins inside a character of 2 to 4 bytes.
        for more in range(count + 1, min(count + 4, len(output) + 1)):
            if not text.startswith(_REPLACEMENT):
                break
            text = self.decode(output[-more:])
        return text


def _as_set(ids: int | list[int] | None) -> frozenset[int]:
    if ids is None:
        return frozenset()
    return frozenset([ids] if isinstance(ids, int) else ids)
