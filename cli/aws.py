"""The options by which the commands enter AWS. What they lead to is in `cli.entering`, which loads the SDK."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from typer import Option

RoleName = Annotated[
    str,
    Option("--role", help="Role to take in the account; without it your own credentials are used.", show_default=False),
]
ExternalId = Annotated[
    str,
    Option(help="External id that the role asks for.", envvar="KUMOMORI_AWS_EXTERNAL_ID", show_default=False),
]
Endpoint = Annotated[
    str,
    Option(
        "--endpoint-url",
        help="Another address of AWS's services: a private endpoint, or an emulator.",
        envvar="AWS_ENDPOINT_URL",
        show_default=False,
    ),
]
Data = Annotated[
    Path,
    Option(
        "--data",
        help="Folder in which it is written down what was made in a cloud, so that it is taken away whatever happens.",
        envvar="KUMOMORI_DATA",
    ),
]
_STATE: Final = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111  never raises
DATA: Final = Path(_STATE) / "kumomori"
Lend = Annotated[
    bool,
    Option(
        "--lend", help="Share each snapshot with the account of your own credentials, which reads it. Needs --role."
    ),
]
CopyKey = Annotated[
    str,
    Option(
        help="With --lend: key for copies of snapshots under AWS's own key, which cannot be shared.", show_default=False
    ),
]


@dataclass(frozen=True, slots=True)
class Access:
    """What the options above say."""

    role: str = ""
    external_id: str = ""
    endpoint: str = ""
    lend: bool = False
    copy_key: str = ""
