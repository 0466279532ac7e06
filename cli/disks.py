"""Disks as the commands take them that only look: images, block devices, and snapshots in a cloud (`aws://…/snap-…`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from typer import Argument

from cli.aws import Access
from cli.scan import warn
from cloud import Connector
from cloud.location import CLOUDS, Location
from core.errors import Gone
from core.estate import Place, Snapshot, SnapshotState
from scanner.disks import RemoteDisk
from scanner.ledger import FileLedger

if TYPE_CHECKING:
    from cloud.aws.connector import AwsConnector

_FAR: Final = tuple(f"{cloud}://" for cloud in CLOUDS)
LookDisks = Annotated[
    list[str],
    Argument(
        metavar="DISK",
        help="Disk images (raw, qcow2), block devices or snapshots (aws://ACCOUNT/REGION/snap-...) of ONE machine.",
        show_default=False,
    ),
]
LookDisk = Annotated[
    str,
    Argument(
        metavar="DISK",
        help="Disk image, block device or snapshot (aws://ACCOUNT/REGION/snap-...).",
        show_default=False,
    ),
]


def is_far(text: str) -> bool:
    return text.startswith(_FAR)


def find_snapshot(connector: Connector, where: Location) -> Snapshot:
    """As it is now. Raises `Gone` for one that is not there."""
    found = connector.refresh(Snapshot(where.place, where.id))
    if found.state is SnapshotState.GONE:
        raise Gone(f"{where}: there is no such snapshot, or it is not shared with this account")
    return found


@contextmanager
def looked_at(texts: Sequence[str], access: Access, data: Path) -> Iterator[list[Path | RemoteDisk]]:
    """Paths as they stand; snapshots opened, until the block ends. Raises `ConfigError`, `CloudError`."""
    if not any(map(is_far, texts)):
        yield [Path(text) for text in texts]
        return
    from cli import entering

    connectors: dict[Place, AwsConnector] = {}
    with ExitStack() as stack:
        ledger: FileLedger | None = None
        disks: list[Path | RemoteDisk] = []
        for text in texts:
            if not is_far(text):
                disks.append(Path(text))
                continue
            where = Location.parse(text, "snap-")
            ledger = ledger or stack.enter_context(FileLedger(data))
            if where.place not in connectors:
                connectors[where.place] = entering.connector(access, where.place, ledger.installation)
            connector = connectors[where.place]
            source = stack.enter_context(connector.open(find_snapshot(connector, where), ledger))
            disks.append(RemoteDisk(text, source))
        yield disks
        for place, connector in connectors.items():
            warn(f"{place}: {entering.price_after(connector)}")
