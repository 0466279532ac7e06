"""Excerpts that leave a fleet: no secret goes with them, and what was found can still be seen."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanner.fleet.masking import MASK, MOST_TEXT, masked, masked_text

KEY = "MIIEpAIBAAKCAQEA7bq0vV3zZ5" * 4


@pytest.mark.parametrize(
    ("text", "secret", "stays"),
    [
        (f"-----BEGIN RSA PRIVATE KEY-----\n{KEY}\n-----END RSA PRIVATE KEY-----\nafter", KEY, "after"),
        (f"x -----BEGIN OPENSSH PRIVATE KEY-----\n{KEY}", KEY, "OPENSSH PRIVATE KEY"),
        (f"-----BEGIN PGP PRIVATE KEY BLOCK-----\n{KEY}\n-----END PGP PRIVATE KEY BLOCK-----", KEY, "PGP"),
        ("aws_access_key_id = AKIAIOSFODNN7EXAMPLE", "IOSFODNN7EXAMPLE", "aws_access_key_id"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "wJalrXUtnFEMI", "aws_secret_access_key"),
        ("postgresql://app:s3cr3t!@db.example/x", "s3cr3t!", "postgresql://app:"),
        ("curl https://user:hunter22@host/path", "hunter22", "@host/path"),
        ("Authorization: Bearer abcdef0123456789.x-y_z", "abcdef0123456789", "Authorization: Bearer"),
        ("authorization: basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA", "basic"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "c2lnbmF0dXJl", ""),
        ("token ghp_abcdefghijklmnopqrstuvwxyz0123456789", "abcdefghijklmnop", "ghp_"),
        ("root:$6$saltsalt$hashhashhashhashhash:19000:0:99999:7:::", "hashhashhash", "root:"),
        ("u:$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7:1", "X3DX6M94c7o", "u:"),
        ("u:$2b$12$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234", "ABCDEFGHIJKL", "u:"),
        ("db_password = 'correct horse'", "horse", "db_password"),
        ('{"password": "hunter22", "user": "x"}', "hunter22", '"user": "x"'),
    ],
)  # fmt: skip
def test_secrets(text: str, secret: str, stays: str) -> None:
    found = masked_text(text)
    assert secret not in found
    assert MASK in found
    assert stays in found


MIXED = "Zq7Xw2Rt9Lm4Kp8Vn3Bc6Yd1Hs5Gf0JaQeWr"


@pytest.mark.parametrize("secret", [MIXED, "correcthorsebatterystaple"], ids=["mixed", "words"])
@pytest.mark.parametrize(
    "shape",
    [
        *("SecretAccessKey: {}", '"SecretAccessKey": "{}"', "AccountKey={}==;EndpointSuffix=core", "SharedAccessKey={}", "?sv=1&sig={}%3D"),
        *("AIza{}", "ya29.{}", "sk-ant-api03-{}", "sk-proj-{}", "sk_test_{}", "rk_live_{}", "whsec_{}", "npm_{}", "pypi-AgEI{}", "dop_v1_{}"),
        *("SG.{}.x", "xapp-1-{}", "https://hooks.slack.com/services/T00/B00/{}", "hf_{}", "glptt-{}", "hvs.{}", "shpat_{}", "AGE-SECRET-KEY-1{}"),
        *("PuTTY-User-Key-File-2: ssh-rsa\nPrivate-Lines: 1\n{}\nPrivate-MAC: 0", "token: {}", "auth_token={}", "refresh_token={}", "client_secret={}"),
        *("DB_PASS={}", "PGPASSWORD={}", "MYSQL_PWD={}", "machine h login u password {}", "curl -u user:{} h", "mysql -u root -p{}", "sshpass -p {} ssh h"),
        *("redis://:{}@h", "//r/:_authToken={}", "passphrase={}", "PrivateKey = {}=", "Authorization: token {}", "X-Api-Key: {}", "h:5432:db:u:{}"),
        *('<add key="Password" value="{}"/>', "define('DB_PASSWORD', '{}');", "define( 'AUTH_KEY', '{}' );", "IDENTIFIED BY '{}'", "WITH PASSWORD '{}'"),
        *("Cookie: a=1; session={}", "Set-Cookie: sid={}; Path=/", "https://discord.com/api/webhooks/1/{}", "https://x.webhook.office.com/webhookb2/{}"),
        *('psk="{}"', "echo 'root:{}' | sudo chpasswd", "echo {} | passwd --stdin root", '"password\\": \\"{}\\"', "password%3D{}", "sshpass -p{} ssh h"),
        *("requirepass {}", "password: |\n  {}", "client-key-data: {}", "docker login -u a -p {} r", "ldapsearch -x -w {} -D cn=a", "PASS {}\r\n"),
        *('Authorization: Digest username="a", response="{}"', "password=ab {}", "'password' => '{}'", "<password>{}</password>"),
    ],
)  # fmt: skip
def test_shapes_of_the_world(shape: str, secret: str) -> None:
    assert secret not in masked_text(shape.format(secret))


def test_a_key_beside_nothing_that_names_it() -> None:
    assert masked_text(f"x {MIXED} y") == f"x {MASK} y"
    digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    assert masked_text(digest) == digest


@pytest.mark.parametrize(
    "text",
    ["<?php @eval($_POST['x']); ?>", "evil:x:0:0::/:/bin/sh", "* * * * * root /tmp/run", "https://example.org/a:b@c", "basic", "a $1 and $6", "echo a | sh", "curl h | sh", "ldap://h/x", "docker run -p 80:80 x"],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked_text(text) == text


def test_a_secret_at_the_cut() -> None:
    found = masked_text("x" * (MOST_TEXT - 10) + " AKIAIOSFODNN7EXAMPLE" + "y" * 5000)
    assert "IOSFOD" not in found
    assert len(found) < MOST_TEXT + 100


def test_everywhere_in_it() -> None:
    found = masked({"lines": [{"text": "Bearer 0123456789abcdef"}, 5, None, True], "n": 1.5})
    assert found == {"lines": [{"text": f"Bearer {MASK}"}, 5, None, True], "n": 1.5}
    deep: object = "Bearer 0123456789abcdef"
    for _ in range(50):
        deep = [deep]
    assert "0123456789abcdef" not in repr(masked(deep))


@given(st.text(max_size=2000))
def test_any_text_is_bounded(text: str) -> None:
    assert len(masked_text(text)) <= MOST_TEXT + 100


@pytest.mark.parametrize(
    "text",
    ["-----BEGIN " * 6000, "a" * 65_536, "://" * 20_000, "aws" * 20_000, "aws secret " * 6000, "$1$" * 20_000, "password" * 8000, "eyJ" + "a." * 30_000, "a:" * 30_000, "echo " * 13_000, "echo a:aaaa " * 6000, "docker login " * 5000, "ldapx " * 10_000, "cookie:" * 9000, "password:|\n " * 6000],
)  # fmt: skip
def test_hostile_text_takes_no_time(text: str) -> None:
    began = time.process_time()
    masked_text(text)
    assert time.process_time() - began < 2
