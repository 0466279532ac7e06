"""`python -m infra.images`: build all images into a folder. Exit 2 with one line if it cannot."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from infra.images.build import TARGETS, BuildError, build


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m infra.images", description="Builds container images as OCI archives."
    )
    parser.add_argument(
        "--output", type=Path, default=Path("var/images"), help="folder of archives, SBOMs and work files"
    )
    parser.add_argument("--base", default="", help="an image to build on, instead of one made with debootstrap")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all, if none is named")
    options = parser.parse_args()
    try:
        for made in build(options.output, options.targets or tuple(TARGETS), base=options.base, tell=_tell):
            sys.stdout.write(f"{made.archive}  {made.archive_bytes / 1e6:.0f} MB  {made.digest}\n{made.sbom}\n")
    except BuildError as error:
        _tell(str(error))
        return 2
    return 0


def _tell(line: str) -> None:
    sys.stderr.write(f"images: {line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
