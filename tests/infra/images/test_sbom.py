"""The list of what is in an image, made of a small root filesystem."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from infra.images.sbom import Subject, bill

SUBJECT = Subject("kumomori", "0.1.0", "sha256:" + "ab" * 32, 1_767_225_600)
STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u10
Description: GNU C Library
 Package: not-one

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(STATUS)
    for folder, name in (
        ("opt/kumomori/lib/python3.11/site-packages", "Yara_Python"),
        ("opt/function", "awslambdaric"),
    ):
        info = tmp_path / folder / f"{name}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    return tmp_path


def test_packages_are_listed_and_bound_to_the_image(root: Path) -> None:
    text = bill(root, SUBJECT)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    assert {one["purl"] for one in document["components"]} == {
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64&distro=bookworm",
        "pkg:pypi/yara-python@1.2",
        "pkg:pypi/awslambdaric@1.2",
    }
    about = document["metadata"]["component"]
    assert about["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert about["type"] == "container"


def test_the_same_image_gives_the_same_bytes(root: Path) -> None:
    assert bill(root, SUBJECT) == bill(root, SUBJECT)


def test_another_image_is_another_document(root: Path) -> None:
    other = Subject(SUBJECT.name, SUBJECT.version, "sha256:" + "cd" * 32, SUBJECT.made_at)
    assert json.loads(bill(root, SUBJECT))["serialNumber"] != json.loads(bill(root, other))["serialNumber"]


def test_an_empty_image(tmp_path: Path) -> None:
    assert "components" not in json.loads(bill(tmp_path, SUBJECT))
