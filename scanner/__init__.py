"""From bytes to findings: images, volumes, filesystems, detectors, and the process that holds no key and no network."""
