"""Whether a model of the hub can be had at all."""

from functools import cache
from pathlib import Path

from glinthawk.core.errors import ModelError

__all__ = ["check_hub"]

#: Seconds for a first answer.
_PATIENCE_S = 10.0


@cache
def check_hub(source: str) -> None:
    """Raise ModelError if ``source`` is no folder, not on this machine and out of reach.

    The hub's own client would try again for half a minute, and tell of every try.
    """
    if Path(source).is_dir():
        return
    from huggingface_hub import constants, get_session, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        if isinstance(try_to_load_from_cache(source, "config.json"), str):
            return
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE_S)
    except HFValidationError:
        return  # said better by whoever loads it
    except Exception as error:  # of whichever client the hub's library has
        raise ModelError(
            f"cannot load {source!r}: it is not on this machine, and {constants.ENDPOINT} cannot "
            "be reached. Give a folder in Hugging Face format, or demo; or try again with a "
            "network."
        ) from error
