"""Real tokenizers, trained in a moment, and the folders that hold them."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from glinthawk.core.limits import Limits
from glinthawk.jobs.lines import LineReader
from glinthawk.jobs.text import Text

_SENTENCES = ["the cat sat on the mat", "hello world, how are you?", "naïve café, 日本語 🙂"] * 20
_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session")
def bpe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Byte-level BPE as GPT-2's, which puts <s> before a plain prompt, with a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=["<|user|>", "<|assistant|>"],
    )
    fast.chat_template = _TEMPLATE
    folder = tmp_path_factory.mktemp("bpe")
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def fallback_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BPE with byte fallback as Llama 2's, whose decoder takes runs of bytes whole; no template."""
    letters = ["\u2581", *"abcdehlostw.,"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, "th"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=[("t", "h")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    folder = tmp_path_factory.mktemp("fallback")
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text(bpe_folder: Path) -> Text:
    return Text.load(bpe_folder)


@pytest.fixture(scope="session")
def fallback_text(fallback_folder: Path) -> Text:
    return Text.load(fallback_folder)


@pytest.fixture(scope="session")
def reader(text: Text) -> LineReader:
    return LineReader(text, Limits(max_model_len=256, kv_tokens=1024, vocab_size=320), "tiny")
