"""The subcommands of `ponder` that measure. Each imports what it needs when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from ponder.evaluation.calibrating import command as calibrating
from ponder.evaluation.comparing import command as comparing
from ponder.evaluation.exporting import command as exporting
from ponder.evaluation.planning import command as planning
from ponder.evaluation.recording import command as recording
from ponder.evaluation.replaying import command as replaying


def add_to(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """The subcommands of this folder, added to a command line."""
    for command in (calibrating, comparing, exporting, planning, recording, replaying):
        command.add_to(add_parser)
