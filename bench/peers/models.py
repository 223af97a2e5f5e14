"""Models with random weights, in Hugging Face format: shapes that are run, weights nobody trained.

``python models.py FOLDER NAME`` makes one. Their tokenizer knows bytes only: no engine here is
given text, but some ask for a tokenizer.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Where environments, models and logs lie. Git ignores it.
BUILD = Path(__file__).parents[2] / "build" / "peers"

#: For trying this benchmark out; M and L are those of ``glinthawk bench``.
_TINY = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 256,
    "vocab_size": 512,
}

_LONGEST = 8192


def model_folder(name: str) -> Path:
    """The model in Hugging Face format; made now if it was not before."""
    folder = BUILD / "models" / name
    return _made(folder, lambda unfinished: [sys.executable, __file__, unfinished, name])


def openvino_folder(name: str) -> Path:
    """The same weights as OpenVINO's IR, in 16 bits."""
    model, export = model_folder(name), BUILD / "openvino" / "venv" / "bin" / "optimum-cli"
    how = ("--task", "text-generation-with-past", "--weight-format", "fp16")
    return _made(
        BUILD / "openvino" / "models" / name,
        lambda unfinished: [str(export), "export", "openvino", "-m", str(model), *how, unfinished],
    )


def _made(folder: Path, command: Callable[[str], list[str]]) -> Path:
    """``folder``, after running the command that fills it, unless it is there."""
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(command(str(unfinished)), check=True, stdout=sys.stderr)
        unfinished.rename(folder)
    return folder


def make_model(folder: Path, name: str) -> None:
    """Save the model in bfloat16; its numbers come from seed 0."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from glinthawk.bench.random_models import SHAPES

    torch.manual_seed(0)
    shape = {**SHAPES["M"], **_TINY} if name == "T" else SHAPES[name]
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = AutoConfig.for_model(**{**shape, "max_position_embeddings": _LONGEST, **ends})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    _byte_tokenizer().save_pretrained(folder)


def _byte_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({text: number for number, text in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


if __name__ == "__main__":
    make_model(Path(sys.argv[1]), sys.argv[2])
