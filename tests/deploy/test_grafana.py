"""The dashboard for Grafana shows what the server exports, all of it, and nothing else."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from glinthawk.serve.server_metrics import ServerMetrics

ROOT = Path(__file__).parents[2]
BOARD = json.loads((ROOT / "examples" / "grafana.json").read_text())


def _expressions() -> Iterator[str]:
    for panel in BOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (str(one["query"]) for one in BOARD["templating"]["list"])


def _exported() -> dict[str, set[str]]:
    """Names of samples, and their labels: the server's counters, and gauges as the page says."""
    metrics = ServerMetrics("demo")
    metrics.count_call(200)
    metrics.count_batch("completed")
    metrics._success.labels("demo", "stop").inc()
    metrics.observe_first(0)
    metrics.observe_end(0)
    families = text_string_to_metric_families(metrics.text().decode())
    found = {one.name: set(one.labels) for each in families for one in each.samples}
    page = (ROOT / "docs" / "serving.md").read_text()
    for name in re.findall(r"`(glinthawk:\w+)`", page):
        if not {name, f"{name}_count"} & set(found):
            found[name] = {"model_name", "status"} if name.endswith("batches") else {"model_name"}
    return found


def test_every_name_is_exported_and_every_export_shown() -> None:
    exported = _exported()
    shown = set(re.findall(r"glinthawk:\w+", "\n".join(_expressions())))
    assert shown <= set(exported)
    parts = r"_(bucket|count|sum|created)$"
    assert {re.sub(parts, "", name) for name in exported} == {
        re.sub(parts, "", name) for name in shown
    }


def test_labels_are_there() -> None:
    exported = _exported()
    for text in _expressions():
        for label in re.findall(r"by \((\w+)\)", text):
            [name] = re.findall(r"glinthawk:\w+", text)
            assert label in exported[name], text


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place: dict[str, Any] = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
