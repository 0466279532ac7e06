"""What files a machine's disks held at one scan: the base of the next one. The format is explained in docs/manifest.md."""
