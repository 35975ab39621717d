"""Start of a service's process: its configuration, log and traces, and what is said where they
are wrong."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from services.common.config import ConfigError, ServiceConfig
from services.common.log import set_up_logging
from services.common.tracing import set_up_tracing

EXIT_CONFIG = 2  # of a process that cannot start as it is configured: no restart would help

Config = TypeVar("Config", bound=ServiceConfig)


def configured(name: str, config_type: type[Config]) -> Config:
    """Configuration of this process, whose log and traces are set up by it. Raises ConfigError."""
    config = config_type.from_env()
    set_up_logging(name, config.log_level)
    set_up_tracing(name, config)
    return config


def run(
    name: str, config_type: type[Config], serve: Callable[[Config], Coroutine[Any, Any, object]]
) -> int:
    """Serve until it returns. Gives the process's exit status, having said what was wrong."""
    try:
        asyncio.run(serve(configured(name, config_type)))
    except ConfigError as error:
        return complain(name, error)
    return 0


def complain(name: str, error: Exception) -> int:
    """Say why the service cannot start; gives its exit status."""
    print(f"{name}: {error}", file=sys.stderr)
    return EXIT_CONFIG
