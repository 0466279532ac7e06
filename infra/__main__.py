"""`python -m infra`: serves the components to Pulumi programs in any language (`pulumi package add`).

Source: Pulumi, "Build a component", component providers in Python.
"""

import asyncio
import sys
from importlib.metadata import version
from typing import Any, Final

import pulumi
from pulumi.provider import ConstructResult
from pulumi.provider import main as serve
from pulumi.provider.experimental.analyzer import ComponentDefinition
from pulumi.provider.experimental.component import ComponentProvider
from pulumi.provider.server import ComponentInitError

from infra.aws.account import ProtectedAccount
from infra.aws.common import BadArgument, no_such_argument
from infra.aws.console import Console
from infra.aws.fleet import ScanFleet
from infra.aws.organization import Organization

COMPONENTS: Final[list[type[pulumi.ComponentResource]]] = [ProtectedAccount, Organization, ScanFleet, Console]


class Provider(ComponentProvider):
    """Pulumi's, but for wrong arguments: each is told, in the component's own words and without a traceback."""

    def construct(
        self,
        name: str,
        resource_type: str,
        inputs: pulumi.Inputs,
        options: pulumi.ResourceOptions | None = None,
    ) -> ConstructResult:
        asyncio.get_running_loop().set_exception_handler(_without_what_is_told)
        try:
            return super().construct(name, resource_type, inputs, options)
        except ComponentInitError as error:
            if isinstance(error.inner, BadArgument):
                raise error.inner from None
            raise

    def map_inputs(self, inputs: pulumi.Inputs, component_def: ComponentDefinition) -> pulumi.Inputs:
        """Names alone: Pulumi's own leaves out what it does not know, and ends with a traceback where it finds no number."""
        names = component_def.inputs_mapping
        if unknown := sorted(set(inputs) - set(names)):
            raise no_such_argument(component_def.name, unknown[0], names)
        return {names[key]: value for key, value in inputs.items()}


def _without_what_is_told(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A wrong argument that is found late fails every resource that waits for it; the answer tells it once."""
    if not isinstance(context.get("exception"), BadArgument):
        loop.default_exception_handler(context)


def main() -> None:
    serve(Provider(COMPONENTS, "kumomori", version=version("kumomori")), sys.argv[1:])


if __name__ == "__main__":
    main()
