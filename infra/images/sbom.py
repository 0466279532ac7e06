"""What is in an image: a CycloneDX 1.6 document of its Debian and Python packages, bound to the image by the manifest's digest.

https://cyclonedx.org/docs/1.6/json/, names as in https://github.com/package-url/purl-spec
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Final

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

_SITES: Final = ("opt/kumomori/lib/python3*/site-packages", "opt/function")


@dataclass(frozen=True, slots=True)
class Subject:
    """The image; `digest` is `sha256:…` of its manifest, `made_at` seconds since 1970."""

    name: str
    version: str
    digest: str
    made_at: int


def bill(root: Path, subject: Subject) -> str:
    """The document, as JSON: the same text for the same image. `root` is the image's root filesystem."""
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"oci:{subject.name}@{subject.digest}"),
        components=[*debian(root), *python(root)],
    )
    bom.metadata.timestamp = datetime.fromtimestamp(subject.made_at, UTC)
    purl = PackageURL("oci", None, subject.name, subject.digest)
    bom.metadata.component = Component(
        type=ComponentType.CONTAINER,
        name=subject.name,
        version=subject.version,
        purl=purl,
        bom_ref=purl.to_string(),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=subject.digest.partition(":")[2])],
    )
    bom.register_dependency(
        bom.metadata.component, bom.components
    )  # that it holds them is known, who needs whom is not
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n"


def debian(root: Path) -> Iterator[Component]:
    """What dpkg has installed. https://www.debian.org/doc/debian-policy/ch-controlfields.html"""
    status = root / "var/lib/dpkg/status"
    for paragraph in status.read_text().split("\n\n") if status.is_file() else ():
        fields = {
            line.partition(":")[0]: line.partition(":")[2].strip()
            for line in paragraph.splitlines()
            if not line.startswith((" ", "\t"))
        }
        if fields.get("Status", "").endswith(" installed"):
            qualifiers = {"arch": fields["Architecture"], "distro": "bookworm"}
            yield _component(PackageURL("deb", "debian", fields["Package"], fields["Version"], qualifiers))


def python(root: Path) -> Iterator[Component]:
    """What is installed for Kumomori, itself included; Debian's interpreter brings no packages."""
    folders = [str(found) for pattern in _SITES for found in sorted(root.glob(pattern))]
    for distribution in distributions(path=folders):
        yield _component(PackageURL("pypi", None, _name(distribution), distribution.version))


def _name(distribution: Distribution) -> str:
    return distribution.metadata["Name"].lower().replace("_", "-")


def _component(purl: PackageURL) -> Component:
    return Component(
        type=ComponentType.LIBRARY, name=purl.name, version=purl.version, purl=purl, bom_ref=purl.to_string()
    )
