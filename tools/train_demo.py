"""Train the demo model of glinthawk: a small Llama that writes Python documentation.

Its only source is the Python installation that runs this script: docstrings and comments of the
standard library, the language reference of ``pydoc_data``, the licence and the Zen of Python.
Questions and answers are made from the same texts, so the model also knows a chat format.

    python tools/train_demo.py --out src/glinthawk/demo

Needs torch, transformers and tokenizers, and a C++ compiler unless ``--no-compile`` is given.
"""

import argparse
import ast
import codecs
import importlib
import inspect
import io
import math
import random
import re
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCAB, LENGTH, ROWS = 4096, 1024, 2  # tokens known, tokens a row, rows a step
SAVE_EVERY = 200  # steps: a run that is stopped early leaves a model too
STDLIB = Path(sysconfig.get_path("stdlib"))
NOT_PROSE = {"site-packages", "pydoc_data", "encodings", "turtledemo", "lib2to3", "data"}
NOT_FOR_CHAT = re.compile(r"(test|idlelib|distutils|turtle|ctypes|unittest\.test)\b|(.*\.)?_")
SPECIALS = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role not in ['system', 'user', 'assistant'] -%}
{{- raise_exception('unknown role: ' ~ message.role) -}}
{%- endif -%}
{{- '<|' ~ message.role ~ '|>\\n' ~ (message.content | trim) ~ '<|end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}
"""
ASCII = str.maketrans(dict(zip("\u2018\u2019\u201c\u201d\u2013\u2014", "''\"\"--", strict=True)))
QUESTIONS = {
    "thing": """What is {}?|What is {} in Python?|Explain {}.|Tell me about {}.|Describe {}.
Can you explain what {} is?|what is {}|How would you define {}?|I am new to Python. What is {}?""",
    "module": """What is the {} module?|What does the {} module do?|What is {} good for?
Tell me about the {} module.|Why would I import {}?|Describe the module {}.|what is {}""",
    "class": """What is {}?|What is the {} class for?|Describe {}.|When would I use {}?
Tell me about the class {}.|Explain {} to me.|What is {} used for?|what is {}""",
    "call": """What does {} do?|How do I use {}?|When would I use {}?|Explain {}.|What is {} for?
what does {} do|Describe the function {}.|Document {} for me.|Tell me what {} does.
I found {} in some code. What does it do?|Write one sentence about {}.""",
}
SYSTEM = """You are a helpful assistant.|You are a Python expert.|Answer briefly.
You explain the Python standard library.|Answer in plain English.|You are a patient teacher."""
GREETINGS = ["Hello", "Hi!", "Hello, who are you?", "Good morning.", "Who are you?", "Hey there"]
GREETING = "Hello. I am a very small model that has read the Python documentation. Ask me about it."


class Fact(NamedTuple):
    """One documented thing, e.g. ``Fact("call", "os.path.join", "Join two or more ...")``."""

    kind: str
    name: str
    text: str


def pick(choices: str, rng: random.Random) -> str:
    """One of the choices of a text like ``"a|b|c"``; a new line separates them too."""
    return rng.choice(re.split(r"[|\n]", choices))


# ------------------------------------------------------------------ text


def reflow(text: str) -> str:
    """Put each paragraph on one line and leave out tables, grammars and sessions."""
    text = re.sub(r"\A[\w.]+\([^\n]*\n\n", "", inspect.cleandoc(text.translate(ASCII)))
    text = re.sub(r"(?m)^[ \t]*[-=*~^+#_]{3,}[ \t]*$", "", text)
    kept = [p for p in re.split(r"\n\s*\n", text) if is_prose(p, 15, 0.75)]
    kept = [p.strip("\n") for p in kept if not re.search(r">>>|::=|\|.*\|.*\|", p)]
    return "\n\n".join(re.sub(r"\s*\n(?!\s*[*-] )\s*|(?<=\S) +", " ", p).rstrip() for p in kept)


def is_prose(text: str, least: int = 30, share: float = 0.8) -> bool:
    """Whether the text is long enough and mostly letters and spaces."""
    plain = sum(c.isascii() and (c.isalpha() or c.isspace()) for c in text)
    return len(text) >= least and plain >= share * len(text)


def answer(text: str, limit: int = 300) -> str:
    """The first sentences of a documentation text; empty if it does not open with prose."""
    lead = ""
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])|\n\n", text):
        if not sentence[:1].isupper() or not is_prose(sentence, 8) or "\n" in sentence:
            break
        if lead and (len(lead) + len(sentence) > limit or sentence.endswith(":")):
            break
        end = "" if sentence.endswith((")", "!", "?")) else "."
        lead = f"{lead} {sentence.rstrip(' .:')}{end}".strip()
    return lead if 30 <= len(lead) <= 2 * limit else ""


def subject(title: str) -> str:
    """A section title as one says it: ``Lists`` -> ``a list``."""
    words = re.sub(r'\s*[-(:].*|"', "", title.translate(ASCII)).strip().lower()
    if not words.endswith("s") or re.search(r"^the |ing\b| (and|of) |s[is]s$", words):
        return words
    word = re.sub(r"(?<=ss)es$|s$", "", re.sub(r"ies$", "ys", words))
    return ("an " if word[0] in "aeiou" else "a ") + word


# ------------------------------------------------------------------ sources


def source_files() -> Iterator[tuple[str, str]]:
    """(module name, source) of the modules of the standard library."""
    for path in sorted(STDLIB.rglob("*.py")):
        parts = path.relative_to(STDLIB).with_suffix("").parts
        if NOT_PROSE.isdisjoint(parts) and not parts[-1].startswith(("bad", "_sysconfigdata")):
            source = path.read_text("utf-8", errors="replace")
            name = ".".join(parts).removesuffix(".__init__")
            yield re.sub(r"^posixpath\b", "os.path", name), source


def docstrings(name: str, node: ast.AST) -> Iterator[Fact]:
    """The docstrings of a module, class or function and of everything in it."""
    kind = {ast.Module: "module", ast.ClassDef: "class"}.get(type(node), "call")
    if text := ast.get_docstring(node):
        yield Fact(kind, name, reflow(text))
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from docstrings(f"{name}.{child.name}", child)


def comments(source: str) -> Iterator[Fact]:
    """The blocks of whole-line comments."""
    lines, last = [], 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#"):
            lines += ["", ""] if token.start[0] != last + 1 else []
            lines.append(re.sub(r"^#+!? ?", "", token.string))
            last = token.start[0]
    for block in re.split(r"\n{3,}", "\n".join(lines)):
        if len(block) > 80 and block[0].isupper():
            yield Fact("comment", "", reflow(block))


def members(name: str, thing: object) -> Iterator[Fact]:
    """The docstrings of a built-in module or class and of its public members."""
    kind = "module" if inspect.ismodule(thing) else "class" if inspect.isclass(thing) else "call"
    yield Fact(kind, name or "builtins", reflow(str(getattr(thing, "__doc__", None) or "")))
    for key, member in sorted(vars(thing).items()) if kind != "call" else ():
        is_class = inspect.isclass(member) and kind == "module"
        if not key.startswith("_") and (is_class or inspect.isroutine(member)):
            yield from members(f"{name}.{key}".strip("."), member)


def builtins() -> Iterator[Fact]:
    """The docstrings of the modules that are written in C."""
    libraries = {path.name.split(".")[0] for path in (STDLIB / "lib-dynload").glob("*.so")}
    for name in ["builtins", *sorted({*sys.builtin_module_names, *libraries})]:
        if not name.startswith(("_test", "_xx", "xx", "_tkinter")):
            public = "" if name == "builtins" else name.lstrip("_").replace("posix", "os")
            yield from members(public, importlib.import_module(name))


def reference() -> Iterator[Fact]:
    """The sections and the definitions of the language reference."""
    for topic in topics.values():
        text = re.sub(r"(?<!\*)\*(\w[^*\n]*)\*(?!\*)", r"\1", topic)
        parts = re.split(r"(?m)^([^\n ].*)\n[*=~-]{3,}\n", text)
        terms = re.findall(r'(?m)^([A-Z][\w -]+)(?: \("\w+"\))?\n((?:   .+\n)+)', text)
        for title, body in [*zip(parts[1::2], parts[2::2], strict=True), *terms]:
            yield Fact("thing", subject(title), reflow(body))


def plain_texts() -> Iterator[Fact]:
    """The licence, section by section, and the Zen of Python."""
    zen = codecs.decode((STDLIB / "this.py").read_text(), "rot13").split('"""')[1]
    licence = (STDLIB / "LICENSE.txt").read_text("utf-8")
    for text in [zen, *re.split(r"\n{3,}", licence)]:
        yield Fact("text", "", text.strip() if text == zen else reflow(text))


def all_facts() -> list[Fact]:
    """Every text once, except that the reference, the licence and the Zen are there three times."""
    found = [*reference(), *builtins()]
    for name, source in source_files():
        try:
            found += [*docstrings(name, ast.parse(source)), *comments(source)]
        except (SyntaxError, ValueError):
            continue  # some test modules are broken on purpose
    unique = {fact.text: fact for fact in reversed(found) if is_prose(fact.text, 30, 0.75)}
    extra = [fact for fact in unique.values() if fact.kind == "thing"]
    return [*unique.values(), *extra, *extra, *(3 * list(plain_texts()))]


# ------------------------------------------------------------------ what the model reads


def document(fact: Fact, rng: random.Random) -> str:
    """A text as the model reads it; one in four begins with the name of what it describes."""
    return f"{fact.name}: {fact.text}" if fact.name and rng.random() < 0.25 else fact.text


def exchange(fact: Fact, rng: random.Random) -> list[dict[str, str]]:
    """A question and its answer."""
    name = fact.name + ("()" if fact.kind == "call" and rng.random() < 0.3 else "")
    question = pick(QUESTIONS[fact.kind], rng).format(name)
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer(fact.text)},
    ]


def conversations(facts: list[Fact], rng: random.Random) -> Iterator[list[dict[str, str]]]:
    """Chats of one to three questions about all the facts; some begin with a system message."""
    hello = [{"role": "user", "content": ""}, {"role": "assistant", "content": GREETING}]
    yield from ([hello[0] | {"content": text}, hello[1]] for text in GREETINGS)
    queue = rng.sample(facts, len(facts))
    while queue:
        system = [{"role": "system", "content": pick(SYSTEM, rng)}] if rng.random() < 0.2 else []
        count = min(len(queue), rng.choice([1, 1, 1, 1, 2, 3]))
        yield sum((exchange(queue.pop(), rng) for _ in range(count)), system)


def make_tokenizer(facts: list[Fact]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of the texts, with the chat format."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator((fact.text for fact in facts), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=SPECIALS[0],
        pad_token=SPECIALS[0],
        additional_special_tokens=SPECIALS[1:],
        model_max_length=LENGTH,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def rows(
    facts: list[Fact], tokenizer: PreTrainedTokenizerFast, rng: random.Random
) -> Iterator[list[int]]:
    """Endless rows of packed tokens: documents and chats, shuffled anew in every epoch."""
    known = [fact for fact in facts if fact.kind in QUESTIONS and not NOT_FOR_CHAT.match(fact.name)]
    known = [fact for fact in known if answer(fact.text)]
    left: list[int] = []
    while True:
        texts = [document(fact, rng) for fact in facts]
        for chat in conversations(known, rng):
            texts.append(tokenizer.apply_chat_template(chat, tokenize=False))
        rng.shuffle(texts)
        for encoding in tokenizer.backend_tokenizer.encode_batch(texts):
            left += [*encoding.ids, tokenizer.eos_token_id]
            while len(left) >= LENGTH:
                yield left[:LENGTH]
                del left[:LENGTH]


# ------------------------------------------------------------------ training


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained model of 3.9 million weights, eight query heads to two key heads."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids([SPECIALS[0], SPECIALS[-1]]),
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return LlamaForCausalLM(config)


def schedule(step: int, steps: int) -> float:
    """Share of the peak learning rate: up over 100 steps, then a cosine down to one fiftieth."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    return min((step + 1) / 100, 0.02 + 0.98 * cosine)


def make_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, which learns here far faster; AdamW for the rest."""
    inner = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in inner}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(inner, lr=0.02, weight_decay=0.1, momentum=0.95),
        torch.optim.AdamW(rest, lr=0.003, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def train(
    model: LlamaForCausalLM, packed: Iterator[list[int]], steps: int, *, compiled: bool
) -> Iterator[int]:
    """Train the model in place; yields the number of steps done after each step."""
    optimizers = make_optimizers(model)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    peaks = [group["lr"] for group in groups]
    forward = torch.compile(model) if compiled else model
    mean = 0.0
    for step in range(steps):
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = peak * schedule(step, steps)
        batch = torch.tensor([next(packed) for _ in range(ROWS)])
        with torch.autocast("cpu", torch.bfloat16):
            loss = forward(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        mean = loss.item() if step == 0 else 0.98 * mean + 0.02 * loss.item()
        sys.stderr.write(f"\rstep {step + 1}/{steps}  loss {mean:.3f} ")
        yield step + 1
    sys.stderr.write("\n")


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the model folder: the weights in bfloat16, to be computed in float32."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    model.config.save_pretrained(out)
    model.generation_config.save_pretrained(out)
    state = {key: value for key, value in model.state_dict().items() if key != "lm_head.weight"}
    weights = {key: value.bfloat16().contiguous() for key, value in state.items()}
    partial = out / "model.safetensors.partial"
    save_file(weights, partial, metadata={"format": "pt"})
    partial.chmod(0o644)
    partial.replace(out / "model.safetensors")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


def main() -> None:
    """Read, train, save."""
    args = arguments()
    torch.manual_seed(args.seed)
    facts = all_facts()
    tokenizer = make_tokenizer(facts)
    model = make_model(tokenizer)
    packed = rows(facts, tokenizer, random.Random(args.seed))
    for done in train(model, packed, args.steps, compiled=args.compile):
        if done % SAVE_EVERY == 0 or done == args.steps:
            save(model, tokenizer, args.out)


if __name__ == "__main__":
    main()
