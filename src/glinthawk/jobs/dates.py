"""The date that chat templates say."""

from datetime import datetime

__all__ = ["fix_date"]

_NAME = "strftime_now"
_DIRECTIVES = [f"%{letter}" for letter in "aAwdbBmyYHIpMSfzZjUWcxXGuVeDFTR"]
_UNPADDED = [f"%-{letter}" for letter in "dmHIMSjy"]


def fix_date(template: str, now: datetime) -> str:
    """``template`` with the moment ``now`` in place of that of each rendering.

    A macro hides the function of transformers by that name, to which nothing else can be handed:
    whatever a template is given is made plain data first.
    """
    if _NAME not in template:
        return template
    said = "".join(f"|replace({one!r}, {now.strftime(one)!r})" for one in _UNPADDED + _DIRECTIVES)
    # The empty expression keeps a newline that the template begins with.
    return (
        f"{{% macro {_NAME}(format) %}}{{{{ format{said} }}}}{{% endmacro %}}{{{{ '' }}}}{template}"
    )
