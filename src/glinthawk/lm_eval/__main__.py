"""``python -m glinthawk.lm_eval``: the command ``lm_eval``, which knows the model glinthawk."""

from lm_eval.__main__ import cli_evaluate

import glinthawk.lm_eval  # noqa: F401  (registers the model)

if __name__ == "__main__":
    cli_evaluate()
