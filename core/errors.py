"""Every error we raise on purpose, split by what the caller does next.

* Error
  - ConfigError        the operator must change something; printed as one line, exit 2, never retried
  - Corrupt            the bytes break their format; the file or volume becomes a gap, the scan goes on
  - Unsupported        a format or feature we know of but do not read; a gap that names it
  - Encrypted          content that needs a key we do not have; a gap
  - Unreadable         the source failed to give its bytes (I/O error, cut short); a gap
  - LimitExceeded      a bound on time, memory, depth or count was reached; a gap
  - CloudError         a provider refused or failed; a gap for what was asked for, the others go on
    · Throttled        wait `after` seconds, then make the same call again
    · AccessDenied     names the missing permission; never retried
    · Conflict         somebody else changed it meanwhile, or its state forbids it: look again, then decide
    · Gone             what was asked for is not there any more
  - Unavailable        a database of ours is away or locked; the same call may be made again after a pause
"""

from __future__ import annotations


class Error(Exception):
    """Root of the tree; `str()` is one line meant for a person."""


class ConfigError(Error):
    """The operator must change a setting, a path or a rule file."""


class Corrupt(Error):
    """The bytes break the format they claim to have."""


class Unsupported(Error):
    """A known format or feature that this version does not read."""


class Encrypted(Error):
    """The content is encrypted and no key is at hand."""


class Unreadable(Error):
    """The block source failed: an I/O error, or bytes that are not there."""


class LimitExceeded(Error):
    """A bound that protects the scanner was reached."""


class CloudError(Error):
    """A provider refused a call or failed."""


class Throttled(CloudError):
    """Too many calls; the same call may be made again in `after` seconds."""

    def __init__(self, message: str, *, after: float) -> None:
        super().__init__(message)
        self.after = after


class AccessDenied(CloudError):
    """The credentials lack `permission` (in the provider's own words, like `ebs:GetSnapshotBlock`)."""

    def __init__(self, message: str, *, permission: str) -> None:
        super().__init__(message)
        self.permission = permission


class Conflict(CloudError):
    """What was asked for is not as the caller thought: it was changed meanwhile, or has ended."""


class Gone(CloudError):
    """A snapshot, disk or instance vanished between two calls."""


class Unavailable(Error):
    """A database of ours is away, locked or full: try again. If it broke off in a commit, that may have been done or not."""
