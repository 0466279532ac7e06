from __future__ import annotations

import pytest

from cloud.location import Location
from core.errors import ConfigError
from core.estate import Place

PLACE = Place("aws", "111122223333", "eu-central-1")


@pytest.mark.parametrize(
    ("text", "kinds", "id_"),
    [
        pytest.param("aws://111122223333/eu-central-1", (), "", id="place"),
        pytest.param("aws://111122223333/eu-central-1/snap-0a", ("snap-",), "snap-0a", id="snapshot"),
        pytest.param("aws://111122223333/eu-central-1/i-0a", ("snap-", "i-"), "i-0a", id="one-of-two"),
    ],
)
def test_a_location(text: str, kinds: tuple[str, ...], id_: str) -> None:
    found = Location.parse(text, *kinds)
    assert (found.place, found.id, str(found)) == (PLACE, id_, text)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        pytest.param("", (), id="nothing"),
        pytest.param("aws://", (), id="cloud-alone"),
        pytest.param("gcp://111122223333/eu-central-1", (), id="unknown-cloud"),
        pytest.param("aws://111122223333/eu-central-1/snap-0a", (), id="too-much"),
        pytest.param("aws://111122223333/eu-central-1", ("snap-",), id="too-little"),
        pytest.param("aws://111122223333/eu-central-1/i-0a", ("snap-",), id="other-kind"),
        pytest.param("aws://111122223333/eu-central-1/snap-0a/..", ("snap-",), id="deeper"),
        pytest.param("aws://a b/c/snap-1", ("snap-",), id="space"),
        pytest.param("aws://\x1b[31m/c/snap-1", ("snap-",), id="escape-sequence"),
        pytest.param("aws://a/b/snap-1\n", ("snap-",), id="line-end"),
        pytest.param("aws://a/b/snap-" + "x" * 200, ("snap-",), id="long"),
    ],
)
def test_what_is_no_location(text: str, kinds: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="write aws://ACCOUNT/REGION") as error:
        Location.parse(text, *kinds)
    assert str(error.value).isprintable()
