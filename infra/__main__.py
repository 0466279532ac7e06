"""`python -m infra`: serves the components to Pulumi programs in any language (`pulumi package add`).

Source: Pulumi, "Build a component", component providers in Python.
"""

from importlib.metadata import version
from typing import Final

import pulumi
from pulumi.provider.experimental import component_provider_host

from infra.aws.account import ProtectedAccount
from infra.aws.console import Console
from infra.aws.fleet import ScanFleet
from infra.aws.organization import Organization

COMPONENTS: Final[list[type[pulumi.ComponentResource]]] = [ProtectedAccount, Organization, ScanFleet, Console]


def main() -> None:
    component_provider_host(name="kumomori", components=COMPONENTS, version=version("kumomori"))


if __name__ == "__main__":
    main()
