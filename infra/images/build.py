"""Builds the images where no engine runs and no registry of images is at hand: debootstrap, buildah, and wheels that pip fetched.

buildah keeps all it has in a storage of its own below the output folder (driver vfs, which needs nothing of the kernel), and runs the
steps in a chroot, so what the machine has of containers stays as it is. Root is needed, as debootstrap makes a whole system.
https://github.com/containers/buildah/blob/main/docs/buildah-build.1.md
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from infra.images.sbom import Subject, bill

TARGETS: Final = {"kumomori": "Containerfile", "function": "Containerfile.function"}
"""The images, and the file that describes each; the second is made from the first."""
HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent.parent
RELEASE: Final = "bookworm"
PYTHON: Final = "3.11"  # of that release
_LOCKS: Final = ("requirements/cli.txt", "requirements/function.txt")
_GLIBC: Final = ("2_36", "2_35", "2_34", "2_31", "2_28", "2_27", "2_26", "2_24", "2_17")  # that release's, and older
_MOST_BYTES: Final = 16 << 20  # of an index or manifest in an archive
_STEP_SECONDS: Final = 1_800


class BuildError(Exception):
    """The line says which step did not work, and why."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image that was built. `digest` is that of its manifest, as a registry names it; `archive` is an OCI archive."""

    target: str
    name: str
    digest: str
    archive: Path
    archive_bytes: int
    sbom: Path


class Buildah:
    """buildah with a storage of its own in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder: Final = folder
        storage, state = folder / "storage", folder / "state"
        self.command: Final = (
            "buildah", f"--root={storage}", f"--runroot={state}", "--storage-driver=vfs",
        )  # fmt: skip

    def __call__(self, *arguments: str) -> str:
        """What it printed, without the last line's end. Raises `BuildError`."""
        return run(*self.command, *arguments)

    @contextmanager
    def container(self, image: str) -> Iterator[str]:
        """The name of a working container made of `image`; gone after the block."""
        name = self("from", "--pull=never", image)
        try:
            yield name
        finally:
            self("rm", name)

    @contextmanager
    def mounted(self, container: str) -> Iterator[Path]:
        """Its root filesystem."""
        try:
            yield Path(self("mount", container))
        finally:
            self("umount", container)


def build(
    output: Path,
    targets: Sequence[str] = tuple(TARGETS),
    *,
    base: str = "",
    tell: Callable[[str], None] = lambda _: None,
) -> list[Image]:
    """Make `TARGET.oci.tar` and `TARGET.cdx.json` in `output` for each of `targets`; `function` needs `kumomori` to be there.

    `base` is an image with Debian's bookworm; without one it is made with debootstrap. Raises `BuildError`.
    """
    _check(targets)
    output = output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    buildah = Buildah(output)
    if not base:
        base = "localhost/kumomori-base"
        tell(f"a base of Debian {RELEASE}")
        _base(buildah, output, base)
    tell("wheels")
    wheels = _wheels(output)
    made = []
    for target in sorted(targets, key=list(TARGETS).index):
        tell(f"image {target}")
        made.append(_image(buildah, output, target, base, wheels))
    return made


def run(*command: str, environment: dict[str, str] | None = None) -> str:
    """Raises `BuildError` with the end of what it said."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, cwd=ROOT,
            env={**os.environ, **(environment or {})}, timeout=_STEP_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise BuildError(f"{command[0]} took more than {_STEP_SECONDS} seconds") from None
    if done.returncode:
        said = " | ".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise BuildError(f"{Path(command[0]).name}: status {done.returncode}: {said[-1500:]}")
    return done.stdout.strip()


def epoch() -> int:
    """SOURCE_DATE_EPOCH, else when the last commit was made: seconds since 1970. https://reproducible-builds.org/specs/source-date-epoch/"""
    said = os.environ.get("SOURCE_DATE_EPOCH", "")
    if said:
        if not said.isdecimal():
            raise BuildError("SOURCE_DATE_EPOCH: must be seconds since 1970")
        return int(said)
    try:
        return int(run("git", "log", "-1", "--format=%ct"))
    except (BuildError, OSError):
        return 0


def version() -> str:
    found: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return found


def _check(targets: Sequence[str]) -> None:
    for target in targets:
        if target not in TARGETS:
            raise BuildError(f"{target}: no such image; there are {', '.join(TARGETS)}")
    for tool in ("buildah", "debootstrap"):
        if shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            raise BuildError(f"{tool} is not installed: run scripts/system-packages.sh")
    if os.geteuid() != 0:
        raise BuildError("needs root; with a container engine, build infra/images/Containerfile instead")


def _base(buildah: Buildah, output: Path, name: str) -> None:
    """debootstrap's smallest system, from the mirror that it knows by itself, with what came after the release added."""
    with tempfile.TemporaryDirectory(dir=output, prefix="base-") as folder:
        root = Path(folder) / "root"
        run("debootstrap", "--variant=minbase", RELEASE, str(root))
        sources = root / "etc/apt/sources.list"
        mirror = sources.read_text().split()[1].rstrip("/")
        sources.write_text(
            f"deb {mirror} {RELEASE} main\ndeb {mirror} {RELEASE}-updates main\n"
            f"deb {mirror}-security {RELEASE}-security main\n"
        )
        container = buildah("from", "scratch")
        try:
            buildah("add", "--quiet", container, str(root), "/")
            buildah("commit", "--quiet", container, name)
        finally:
            buildah("rm", container)


def _wheels(output: Path) -> Path:
    """Exactly the files that the locks name, fetched with this machine's pip and its settings."""
    folder = output / "wheels"
    machine = platform.machine()
    tags = [*(f"manylinux_{number}_{machine}" for number in _GLIBC), f"manylinux2014_{machine}"]
    if machine == "x86_64":
        tags += ["manylinux2010_x86_64", "manylinux1_x86_64"]
    for lock in _LOCKS:
        run(
            sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--no-input", "--no-deps", "--require-hashes",
            "--only-binary=:all:", f"--python-version={PYTHON}", *(f"--platform={tag}" for tag in tags),
            "--requirement", lock, "--dest", str(folder),
        )  # fmt: skip
    return folder


def _image(buildah: Buildah, output: Path, target: str, base: str, wheels: Path) -> Image:
    made_at = epoch()
    name = _name(target)
    arguments = {
        "BASE": base,
        "KUMOMORI": _name("kumomori"),
        "VERSION": version(),
        "REVISION": _revision(),
        "CREATED": datetime.fromtimestamp(made_at, UTC).isoformat(),
        "SOURCE_DATE_EPOCH": str(made_at),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "/wheels",
    }
    buildah(
        "build", "--quiet", "--isolation=chroot", "--pull=never", "--layers=false", f"--timestamp={made_at}", f"--volume={wheels}:/wheels:ro",
        *(f"--build-arg={key}={value}" for key, value in arguments.items()),
        "--file", str(HERE / TARGETS[target]), "--tag", name, str(ROOT),
    )  # fmt: skip
    archive, sbom = output / f"{target}.oci.tar", output / f"{target}.cdx.json"
    archive.unlink(missing_ok=True)
    buildah("push", "--quiet", name, f"oci-archive:{archive}:{name}")
    digest = manifest_digest(archive)
    subject = Subject(name.rpartition("/")[2].partition(":")[0], version(), digest, made_at)
    with buildah.container(name) as container, buildah.mounted(container) as root:
        sbom.write_text(bill(root, subject))
    return Image(target, name, digest, archive, archive.stat().st_size, sbom)


def _name(target: str) -> str:
    return f"localhost/kumomori{'' if target == 'kumomori' else f'-{target}'}:{version()}"


def _revision() -> str:
    try:
        return run("git", "rev-parse", "HEAD") + ("-dirty" if run("git", "status", "--porcelain") else "")
    except (BuildError, OSError):
        return "unknown"


def manifest_digest(archive: Path) -> str:
    """Of the only image in an OCI archive. https://github.com/opencontainers/image-spec/blob/main/image-layout.md"""
    with tarfile.open(archive) as tar:
        index = tar.extractfile("index.json")
        assert index is not None
        manifests = json.loads(index.read(_MOST_BYTES))["manifests"]
    if len(manifests) != 1:
        raise BuildError(f"{archive.name}: has {len(manifests)} images")
    digest: str = manifests[0]["digest"]
    return digest
