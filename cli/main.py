"""`kumomori`: one command for all programs. Each sub-command parses, calls one function, prints, and exits."""

from __future__ import annotations

import os
import signal
import sys
from importlib.metadata import version
from typing import Annotated

from typer import Exit, Option, Typer

from cli import (
    accounts,
    apply,
    cache,
    diff,
    estate,
    files,
    history,
    listing,
    overview,
    packages,
    policy,
    scan,
    scans,
    serve,
    snapshots,
    tasks,
    tokens,
    up,
    worker,
)
from cli.pipes import prepare_standard_streams
from core.errors import Error
from core.text import printable

app = Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
scan.app.command("snapshot", short_help="Scan snapshots of one machine's disks.")(snapshots.snapshot)
scan.app.command("instance", short_help="Snapshot all disks of a machine, scan and delete them.")(snapshots.instance)
for _name, _command, _help in (
    ("start", scans.start, "Order a scan of instances."),
    ("show", scans.show, "One scan that a fleet makes or made."),
    ("stop", scans.stop, "Stop a scan that a fleet makes."),
    ("pause", scans.pause, "Pause it."),
    ("resume", scans.resume, "Go on with it."),
):
    scan.app.command(_name, short_help=_help)(_command)
estate.app.add_typer(accounts.app, name="add")
estate.app.command("list", short_help="Accounts and sites that the console knows.")(accounts.list_accounts)
estate.app.command("remove", short_help="Protect an account no longer.")(accounts.remove)
policy.app.command("apply", short_help="Apply the policies of a folder.")(apply.apply)
policy.app.command("sync", short_help="… if they differ from those that hold.")(apply.sync)
policy.app.command("history", short_help="Who applied which version, and what changed.")(history.history)
app.command("up", short_help="Start a console and a fleet on this machine.")(up.up)
app.command("estate", short_help="Every machine that the console knows.")(overview.estate)
app.add_typer(overview.findings_app, name="findings", short_help="What is wrong in the machines.")
app.command("gaps", short_help="What could not be looked at.")(overview.gaps)
app.command("files", short_help="Which machines have a file with this content.")(files.files)
app.command("packages", short_help="Which machines have a package installed.")(packages.packages)
app.command("scans", short_help="Scans of the fleet, newest first.")(scans.scans)
app.add_typer(scan.app, name="scan")
app.add_typer(scans.app, name="schedule")
app.command("sweep", short_help="Delete what fleets left in clouds.")(tasks.sweep)
app.command("console", short_help="Be a console alone, with settings from the environment.")(serve.console)
app.command("health", short_help="Whether the console or the worker of this machine works.")(serve.health)
app.command("worker", short_help="Be a fleet on this machine, for a console elsewhere.")(worker.worker)
app.add_typer(cache.app, name="cache")
app.add_typer(estate.app, name="cloud", short_help="Accounts, permissions, what scans left behind.")
app.add_typer(policy.app, name="policy")
app.add_typer(tokens.app, name="token")
app.command("instances", short_help="List every instance of a cloud with its disks.")(estate.instances)
app.command("diff", short_help="Compare two states of one machine, file by file.")(diff.diff)
app.command("ls", short_help="List every file of the disks of one machine.")(listing.ls)
app.command("cat", short_help="Write one file of a disk to the standard output.")(listing.cat)


STOPPED = 130  # what the command line library makes of Ctrl-C


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"kumomori {version('kumomori')}\n")
        raise Exit


@app.callback()
def _root(
    _wanted: Annotated[bool, Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Kumomori scans disks of cloud and on-prem machines for what is wrong in them, without mounting them."""


def main() -> None:
    """Entry point. Exit codes are told by each command's --help; 2 always means that it could not start."""
    prepare_standard_streams()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the parser processes are ended, too
    try:
        app()
    except Error as error:
        sys.stderr.write(f"kumomori: {printable(str(error))}\n")  # it may quote what somebody wrote into a tag
        sys.exit(2)
    except OSError as error:
        sys.stderr.write(f"kumomori: cannot write the standard output: {error.strerror or error}\n")
        os._exit(2)  # what is left in the buffers cannot be written either
    except KeyboardInterrupt:
        sys.stderr.write("kumomori: stopped\n")
        sys.exit(STOPPED)
    except SystemExit as end:
        if end.code == STOPPED:
            sys.stderr.write("kumomori: stopped\n")
        raise
