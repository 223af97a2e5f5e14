"""The share of JSON Schema's test suite that answers can be held to."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.schema_suite import SchemaCase, read_suite
from glinthawk.core.source import resolve_model
from glinthawk.core.structured_outputs import StructuredOutputsParams
from glinthawk.tokens.grammars import Grammars
from glinthawk.tokens.tokenizer import load_tokenizer

__all__ = ["Verdict", "judge", "run"]

_Write = Callable[[str], None]

_REASON = 60


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one schema: why it is refused, or which instances are wrongly judged."""

    case: SchemaCase
    refusal: str = ""
    accepted: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """``right`` is a schema that is kept to wholly."""
        if self.refusal:
            return "not compiled"
        if self.accepted:
            return "accepts too much"
        return "accepts too little" if self.refused else "right"


def run(write: _Write, suite: Path) -> None:
    """Judge every schema of a draft's folder ``suite``, and write what came of it; the last line is
    a JSON object. Raises FileNotFoundError for a folder without tests."""
    tokenizer = load_tokenizer(resolve_model("demo"))
    grammars = Grammars(tokenizer)
    verdicts = [judge(case, grammars, tokenizer) for case in read_suite(suite)]
    write(f"{'keyword':24} schemas  right  too little  too much  not compiled")
    by_keyword: dict[str, Counter[str]] = {}
    for verdict in verdicts:
        by_keyword.setdefault(verdict.case.keyword, Counter())[verdict.kind] += 1
    for keyword, counts in by_keyword.items():
        write(_line(keyword, counts))
    whole = Counter(verdict.kind for verdict in verdicts)
    write(_line("all", whole))
    _write_wrong(verdicts, write)
    reasons = Counter(its.refusal[:_REASON] for its in verdicts if its.refusal)
    write(json.dumps({"suite": suite.name, **whole, "reasons": dict(reasons.most_common())}))


def judge(case: SchemaCase, grammars: Grammars, tokenizer: Any) -> Verdict:
    """By walking the tokens of every instance, in any order of its keys, through the grammar."""
    wanted = StructuredOutputsParams(json=case.text)
    try:
        grammars.matcher(wanted)
    except ValueError as error:
        return Verdict(case, refusal=str(error))
    wrong: dict[bool, list[str]] = {True: [], False: []}
    for instance in case.instances:
        texts = (tokenizer.encode(text, add_special_tokens=False) for text in instance.texts())
        is_accepted = any(_accepts(grammars, wanted, ids) for ids in texts)
        if is_accepted != instance.is_valid:
            wrong[is_accepted].append(instance.description)
    return Verdict(case, "", tuple(wrong[True]), tuple(wrong[False]))


def _accepts(grammars: Grammars, wanted: StructuredOutputsParams, ids: list[int]) -> bool:
    matcher = grammars.matcher(wanted)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def _line(name: str, counts: Counter[str]) -> str:
    total = sum(counts.values())
    return (
        f"{name:24} {total:7} {counts['right'] / total:6.0%} {counts['accepts too little']:11} "
        f"{counts['accepts too much']:9} {counts['not compiled']:13}"
    )


def _write_wrong(verdicts: list[Verdict], write: _Write) -> None:
    for what, name in (("wrongly accepted", "accepted"), ("wrongly refused", "refused")):
        for verdict in verdicts:
            for description in getattr(verdict, name):
                case = verdict.case
                write(f"{what}: {case.keyword}: {case.description}: {description}")
