"""Prompts of some thousand tokens, which are prefilled in large chunks, change no answer."""

from pathlib import Path

import pytest
from chunk_cases import BEYOND_PROMPTS, check_chunks, make_prompts

from cluster import open_cluster
from families import FAMILIES
from model_cases import Case

#: What a configuration calls its length beside the usual name.
_ALSO_CALLED = {"gpt2": ("n_positions",)}
#: In two chunks, and in three.
_MANY_CHUNK, _MANY = 1024, (1100, 2100)
#: In chunks as large as they are by default.
_MOST_CHUNK, _MOST = 2048, (2100, 4500)


@pytest.mark.parametrize(
    ("family", "chunk", "lengths"),
    [
        *((family, _MANY_CHUNK, _MANY) for family in sorted(FAMILIES)),
        ("gpt_oss", _MOST_CHUNK, _MOST),
        *(
            pytest.param(family, _MOST_CHUNK, _MOST, marks=pytest.mark.matrix)
            for family in sorted(FAMILIES.keys() - {"gpt_oss"})
        ),
    ],
)
def test_prompts_of_some_thousand_tokens(
    tmp_path: Path, family: str, chunk: int, lengths: tuple[int, ...]
) -> None:
    length = dict.fromkeys(("max_position_embeddings", *_ALSO_CALLED.get(family, ())), 8192)
    case = Case(tmp_path, family, make_prompts(*lengths), long=BEYOND_PROMPTS, **length)
    for workers in (0, 1):
        with open_cluster(
            case.loaded,
            tmp_path,
            workers=workers,
            tier1_pages=0 if workers else 300,
            worker_pages=300,
            batch_tokens=chunk,
        ) as run:
            check_chunks(case, run, chunk)
