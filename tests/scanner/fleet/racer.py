"""A process that races for a slot: for each line on its input it tries and prints its epoch (0: lost), then gives back."""

from __future__ import annotations

import sys

from scanner.fleet.database import Database
from scanner.fleet.slots import claim, release


def main() -> None:
    database = Database(sys.argv[1])
    won = None
    for line in sys.stdin:
        if line == "claim\n":
            won = claim(database, sys.argv[2], ["slot-1"], 60)
            print(won.epoch if won else 0, flush=True)
        elif won is not None:
            print(int(release(database, won)), flush=True)
        else:
            print(0, flush=True)


if __name__ == "__main__":
    main()
