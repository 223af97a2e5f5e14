"""``glinthawk serve``."""

import os
import signal
from contextlib import suppress
from typing import Annotated, Any

from glinthawk.cli.options import SettingsOf, spread
from glinthawk.cli.serve_options import API_KEY_VARIABLE, ServeOptions
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import UsageError
from glinthawk.core.units import parse_size
from glinthawk.jobs.line_rules import LineRules

__all__ = ["serve"]

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_PACKAGES = ("starlette", "uvicorn", "python_multipart", "prometheus_client")


@spread
def serve(
    settings: Annotated[dict[str, Any], SettingsOf(EngineConfig)],
    rules: Annotated[dict[str, Any], SettingsOf(LineRules)],
    options: ServeOptions,
) -> None:
    """Answer batches and single requests of OpenAI's clients, by HTTP. Killed and started again
    with the same --data, it goes on with the batches that there are.
    """
    from glinthawk.files.extras import load_extra

    for package in _PACKAGES:
        load_extra(package, "glinthawk serve")
    _serve(EngineConfig(**settings), LineRules(**rules), options)


def _serve(config: EngineConfig, rules: LineRules, options: ServeOptions) -> None:
    from glinthawk.cli.answerers import fingerprint_of
    from glinthawk.cli.batch_file import open_console
    from glinthawk.core.hub import check_hub
    from glinthawk.core.source import resolve_model
    from glinthawk.serve.api_keys import ApiKeys
    from glinthawk.serve.http_server import Place, ServerLimits, open_server

    if not options.api_key and API_KEY_VARIABLE in os.environ:
        raise UsageError(f"{API_KEY_VARIABLE} is set and has no key; unset it, or give one")
    keys = ApiKeys(options.api_key or ())
    place = Place(
        host=options.host,
        port=options.port,
        ssl_keyfile=options.ssl_keyfile,
        ssl_certfile=options.ssl_certfile,
    )
    limits = ServerLimits(
        most_file_bytes=parse_size(options.max_file_size),
        most_body_bytes=parse_size(options.max_body_size),
        most_lines=options.max_batch_lines,
    )
    console = open_console(options.quiet)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        console.print(f"loading {config.model}")
        check_hub(resolve_model(config.model))
        fingerprint = fingerprint_of(config, rules)
        with open_server(config, rules, fingerprint, options.data, place, keys, limits) as server:
            url, run = server
            if not options.api_key and options.host not in _LOOPBACK:
                console.print("without --api-key, everybody who reaches this server may call it")
            console.print(f"serving {config.model} at {url}/v1")
            run()
