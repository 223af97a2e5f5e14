"""Answer a few prompts on two tiers: ``python examples/generate.py``."""

import sys

from glinthawk import LLM, SamplingParams


def main() -> None:
    prompts = ["The list type is", "Return a copy of", "This module provides"]
    with LLM("demo", tier2="local:2", worker_kv="64MiB") as llm:
        for output in llm.generate(prompts, SamplingParams(temperature=0, max_tokens=32)):
            sys.stdout.write(f"{output.prompt!r} -> {output.outputs[0].text!r}\n")


if __name__ == "__main__":
    main()
