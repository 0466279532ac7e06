"""`kumomori packages`: which machines have a package installed, from what scans have seen."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, Option

from cli.connection import with_console
from cli.files import unknown_words
from cli.pipes import reader_may_leave
from cli.tables import ListAs, ListFormat, ago, many, print_json, print_table

if TYPE_CHECKING:
    from client.api import Console as Api
    from client.model import PackageHolder


@with_console
def packages(
    api: Api,
    name: Annotated[str, Argument(help="Its name, or that of the source it was built from.", show_default=False)],
    version: Annotated[str, Option(help="Only exactly this version.", show_default=False)] = "",
    output_format: ListAs = ListFormat.TABLE,
) -> None:
    """Which machines have a package of dpkg or apk installed, by what their last scans have seen. Enters no cloud.

    Exits 0: none has, and it is known of all; 1: some have; 3: none is known to, but not all are known; 2: it could not start.
    """
    rows: list[PackageHolder] = []
    machines: set[str] = set()
    with reader_may_leave():
        for page in api.packages(name, version=version):
            machines.update(one.machine for one in page.items)
            if output_format is ListFormat.JSONL:
                print_json(page)
            else:
                rows += page.items
        if output_format is ListFormat.TABLE:
            if rows:
                print_table(("Package", "Version", "Type", "System", "Machine", "Seen"), [_words(one) for one in rows])
            found = (
                f"{many(len(machines), 'machine')} had it when last scanned"
                if rows
                else "No machine is known to have it"
            )
            sys.stdout.write(f"{found}; {unknown_words(page)}.\n")
    raise Exit(1 if machines else 3 if page.never + page.gaps else 0)


def _words(one: PackageHolder) -> tuple[str, ...]:
    return (one.name, one.version, one.type, one.distro, one.machine, ago(one.seen))
