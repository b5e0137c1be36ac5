"""The subcommands of `ponder` that measure. Each imports what it needs when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from ponder.evaluation import (
    calibrate_command,
    compare_command,
    export_command,
    plan_command,
    record_command,
    replay_command,
)


def add_to(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """The subcommands of this folder, added to a command line."""
    calibrate_command.add_to(add_parser)
    compare_command.add_to(add_parser)
    export_command.add_to(add_parser)
    plan_command.add_to(add_parser)
    record_command.add_to(add_parser)
    replay_command.add_to(add_parser)
