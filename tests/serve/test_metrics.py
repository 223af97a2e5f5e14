"""Every metric that docs/serving.md names is there, and moves."""

import re
from pathlib import Path
from typing import Any

import openai
import pytest

from commands import line
from servers import running, upload, wait_for
from watching import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
#: These need a machine with too little memory, and are read from the engine's own counts.
STILL = {"glinthawk:num_preemptions"}


def test_every_documented_metric_moves(tmp_path: Path) -> None:
    documented = set(re.findall(r"`(glinthawk:\w+)`", PAGE.read_text()))
    seen: dict[str, set[float]] = {}

    with running(tmp_path / "data", "--batch-size", 1) as server, server.client() as client:

        def look() -> None:
            for family in server.metrics():
                values = {sample.value for sample in family.samples}
                seen.setdefault(family.name, set()).update(values)

        look()
        asked: Any = {"model": "demo", "prompt": "The same prompt " * 20}
        file = upload(client, [line(str(n), **asked, max_tokens=50) for n in range(20)])
        window: Any = {"endpoint": "/v1/completions", "completion_window": "1h"}
        id = client.batches.create(input_file_id=file, **window).id
        wait_until(lambda: server.metric("num_requests_waiting") > 0)
        look()
        stream = client.completions.create(**asked, max_tokens=900, stream=True)
        next(iter(stream))
        look()
        stream.close()
        wait_until(lambda: server.metric("request_aborted_total") > 0)
        client.completions.create(**asked)
        with pytest.raises(openai.BadRequestError):
            client.completions.create(**asked, max_tokens=-1)
        wait_for(client, id)
        look()
    # The parser's families of counters have no _total.
    known = {name.removesuffix("_total") for name in documented}
    assert known == set(seen)
    assert {name for name, values in seen.items() if values <= {0.0}} - STILL == set()
