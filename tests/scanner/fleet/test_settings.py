"""Settings from the environment: refused by name, never showing a value."""

from __future__ import annotations

import pytest

from core.errors import ConfigError
from scanner.fleet.settings import Settings

GOOD = {
    "KUMOMORI_FLEET_DATABASE": "postgresql://fleet:s3cret@db/fleet",
    "KUMOMORI_FLEET_DATA": "/var/lib/kumomori",
    "KUMOMORI_FLEET_CONSOLE": "https://console.example:8443/",
    "KUMOMORI_FLEET_TOKEN_FILE": "/etc/kumomori/token",
}


def test_from_environment() -> None:
    found = Settings.from_environment(
        {
            **GOOD,
            "KUMOMORI_FLEET_REGIONS": "eu-central-1, eu-west-1",
            "KUMOMORI_FLEET_SLOTS": "8",
            "KUMOMORI_FLEET_SITES": "/etc/a, /etc/b",
            "PATH": "/bin",
        }
    )
    assert found.console == "https://console.example:8443"
    assert found.regions == ("eu-central-1", "eu-west-1")
    assert found.slots == 8
    assert "s3cret" not in repr(found) + str(found)
    assert Settings.from_environment(found.environment()) == found


@pytest.mark.parametrize(
    ("more", "said"),
    [
        pytest.param({"KUMOMORI_FLEET_SLOT": "8"}, "KUMOMORI_FLEET_SLOT: there is no such setting", id="misspelt"),
        pytest.param({"KUMOMORI_FLEET_SLOTS": "0"}, "KUMOMORI_FLEET_SLOTS: ", id="none"),
        pytest.param({"KUMOMORI_FLEET_SLOTS": "s3cret"}, "KUMOMORI_FLEET_SLOTS: ", id="no-number"),
        pytest.param({"KUMOMORI_FLEET_LEASE_SECONDS": "nan"}, "KUMOMORI_FLEET_LEASE_SECONDS: ", id="nan"),
        pytest.param({"KUMOMORI_FLEET_CONSOLE": "ftp://x"}, "KUMOMORI_FLEET_CONSOLE: ", id="no-http"),
        pytest.param({"KUMOMORI_FLEET_CONSOLE": "https://u:s3cret@x"}, "KUMOMORI_FLEET_CONSOLE: ", id="secret-in-url"),
        pytest.param({"KUMOMORI_FLEET_CLOUDS": "aws,gcp"}, "KUMOMORI_FLEET_CLOUDS: ", id="no-such-cloud"),
        pytest.param({"KUMOMORI_FLEET_REGIONS": "../etc"}, "KUMOMORI_FLEET_REGIONS: ", id="odd-region"),
        pytest.param({"KUMOMORI_FLEET_FLEET": "A b"}, "KUMOMORI_FLEET_FLEET: ", id="odd-name"),
    ],
)
def test_refused(more: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Settings.from_environment({**GOOD, **more})
    assert said in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_missing() -> None:
    with pytest.raises(ConfigError, match="KUMOMORI_FLEET_DATABASE is not set"):
        Settings.from_environment({})


@pytest.mark.parametrize(
    ("regions", "cloud", "region", "serves"),
    [
        ("", "aws", "us-east-1", True),
        ("eu-west-1", "aws", "us-east-1", False),
        ("eu-west-1", "aws", "", True),
        ("eu-west-1", "file", "rack-3", True),
        ("eu-west-1", "azure", "", False),
    ],
)
def test_serves(regions: str, cloud: str, region: str, serves: bool) -> None:
    assert Settings.from_environment({**GOOD, "KUMOMORI_FLEET_REGIONS": regions}).serves(cloud, region) is serves
