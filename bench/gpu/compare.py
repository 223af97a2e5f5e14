"""How many answers of batch files are those of the first: python compare.py TRUTH OTHER..."""

import json
import sys
from pathlib import Path


def read_answers(path: str) -> dict[str, str | None]:
    """Text by custom_id; None where the line has an error."""
    file = Path(path)
    lines = map(json.loads, file.read_text().splitlines()) if file.exists() else ()
    return {line["custom_id"]: _text(line) for line in lines}


def _text(line: dict[str, object]) -> str | None:
    response = line.get("response")
    body = response.get("body") if isinstance(response, dict) else None
    if line.get("error") or not isinstance(body, dict) or "choices" not in body:
        return None
    choice = body["choices"][0]
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


if __name__ == "__main__":
    truth = read_answers(sys.argv[1])
    sys.stdout.write(f"{sys.argv[1]}: {len(truth)} answers\n")
    for path in sys.argv[2:]:
        answers = read_answers(path)
        same = sum(truth.get(name) == text is not None for name, text in answers.items())
        sys.stdout.write(f"{path}: {len(answers)} answers, {same} the same\n")
