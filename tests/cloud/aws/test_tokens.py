from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.aws.tokens import MOST_IDLE_PAGES, ListPage, Query, Tokens, pages, parse_page
from core.errors import CloudError, Error, Unsupported
from tests.cloud.aws.ebs_server import BLOCK, Service, Snapshot

TOTAL = 2048


class Listing:
    """A `ListPage` out of the test server, without a socket."""

    def __init__(self, written: list[int], **others: Any) -> None:
        self.service = Service({"snap-1": Snapshot(dict.fromkeys(written, b""))}, **others)
        self.queries: list[Query] = []

    def __call__(self, query: Query) -> Mapping[str, Any]:
        self.queries.append(query)
        answer = self.service._list(
            sorted(self.service.snapshots["snap-1"].blocks),
            query,
            self.service.snapshots["snap-1"],
            lambda index: {"BlockToken": self.service.token("snap-1", index)},
        )
        page: dict[str, Any] = json.loads(answer.body or b"")
        return page


def index_of(token: str | int) -> int:
    assert isinstance(token, str)
    return int(base64.b64decode(token).decode().split("/")[1])


@settings(max_examples=60, deadline=None)
@given(
    st.sets(st.integers(0, TOTAL - 1), max_size=80),
    st.lists(st.integers(0, TOTAL - 1), min_size=1, max_size=40),
    st.integers(1, 50),
    st.integers(0, 2),
    st.sampled_from([5, 100, 10_000]),
)
def test_the_right_token_or_none(
    written: set[int], asked: list[int], page: int, empty_pages: int, most_tokens: int
) -> None:
    tokens = Tokens(Listing(sorted(written), page=page, empty_pages=empty_pages), most_tokens=most_tokens)
    for block in asked:
        found = tokens.token(block)
        if block in written:
            assert index_of(found) == block
        else:
            assert isinstance(found, int)
            assert block < found <= TOTAL
            assert not written & set(range(block, found))
        assert tokens.held <= max(most_tokens, page)


def test_who_reads_little_lists_little() -> None:
    listing = Listing(list(range(TOTAL)), page=10)
    tokens = Tokens(listing)
    assert tokens.size == 1 << 30
    tokens.token(2040)
    assert len(listing.queries) < 5 + 2048 // 10
    before = len(listing.queries)
    for block in range(2034, 2044):
        tokens.token(block)
    assert len(listing.queries) == before


def test_tokens_are_renewed_before_they_expire() -> None:
    now = [1000.0]
    listing = Listing([1, 2, 3], token_seconds=7 * 86400)
    tokens = Tokens(listing, clock=lambda: now[0])
    first = tokens.token(1)
    now[0] += 7 * 86400 - 600
    assert tokens.token(1) == first
    assert len(listing.queries) == 1
    now[0] += 400
    tokens.token(1)
    assert len(listing.queries) == 2


def test_a_clock_that_is_ahead_does_not_list_for_ever() -> None:
    listing = Listing([1, 2, 3], token_seconds=60)
    tokens = Tokens(listing, now=lambda: time.time() + 86400)
    for _ in range(5):
        tokens.token(2)
    assert len(listing.queries) == 1


def test_a_token_that_was_refused_is_renewed_once() -> None:
    listing = Listing([1, 2, 3])
    tokens = Tokens(listing)
    old = tokens.token(2)
    assert isinstance(old, str)
    listing.service.salt += 1
    tokens.expired(2, old)
    new = tokens.token(2)
    assert new != old
    tokens.expired(2, old)  # a second thread, which was slower
    assert tokens.token(2) == new
    assert len(listing.queries) == 2


def page_of(**changed: object) -> dict[str, Any]:
    return {
        "Blocks": [{"BlockIndex": 1, "BlockToken": "AAA="}],
        "BlockSize": BLOCK,
        "VolumeSize": 1,
        "ExpiryTime": 2e9,
        "NextToken": None,
    } | changed


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        pytest.param(page_of(BlockSize=512), Unsupported, id="other-blocks"),
        pytest.param(page_of(BlockSize=None), Unsupported, id="no-block-size"),
        pytest.param(page_of(VolumeSize=0), CloudError, id="no-volume"),
        pytest.param(page_of(VolumeSize=1 << 40), CloudError, id="huge-volume"),
        pytest.param(page_of(VolumeSize=True), CloudError, id="bool"),
        pytest.param(page_of(VolumeSize="1"), CloudError, id="text"),
        pytest.param(page_of(Blocks={}), CloudError, id="no-list"),
        pytest.param(page_of(Blocks=[1]), CloudError, id="no-block"),
        pytest.param(page_of(Blocks=[{"BlockIndex": -1}]), CloudError, id="negative"),
        pytest.param(page_of(Blocks=[{"BlockIndex": 2048}]), CloudError, id="outside"),
        pytest.param(page_of(Blocks=[{"BlockIndex": 5}, {"BlockIndex": 4}]), CloudError, id="out-of-order"),
        pytest.param(page_of(Blocks=[{"BlockIndex": 5}, {"BlockIndex": 5}]), CloudError, id="twice"),
        pytest.param(page_of(Blocks=[{"BlockIndex": 1}] * 10_001), CloudError, id="too-many"),
        pytest.param(page_of(NextToken=5), CloudError, id="token-of-a-page"),
        pytest.param(page_of(Blocks=[{"BlockIndex": 1}]), CloudError, id="no-token"),
        pytest.param(page_of(Blocks=[{"BlockIndex": 1, "BlockToken": "ä"}]), CloudError, id="odd-token"),
        pytest.param(page_of(Blocks=[{"BlockIndex": 1, "BlockToken": "A" * 2000}]), CloudError, id="long-token"),
        pytest.param({}, Error, id="nothing"),
    ],
)
def test_pages_that_are_none(raw: dict[str, Any], kind: type[Error]) -> None:
    with pytest.raises(kind):
        Tokens(lambda _: raw)


@pytest.mark.parametrize("expires", [None, "", "never", [], 1e300, -5, float("nan")])
def test_an_expiry_that_is_none(expires: object) -> None:
    assert isinstance(Tokens(lambda _: page_of(ExpiryTime=expires)).token(1), str)


@pytest.mark.parametrize(
    "listing",
    [
        pytest.param(lambda _: page_of(Blocks=[], NextToken="A"), id="the-same-page"),
        pytest.param(lambda query: page_of(Blocks=[], NextToken=query.get("pageToken", "") + "A"), id="empty-pages"),
    ],
)
def test_a_listing_without_end(listing: ListPage) -> None:
    asked = 0

    def counted(query: Query) -> Mapping[str, Any]:
        nonlocal asked
        asked += 1
        return listing(query)

    with pytest.raises(CloudError, match="does not come to an end"):
        Tokens(counted).token(5)
    assert asked <= 2 * MOST_IDLE_PAGES


def test_a_volume_that_changes_its_size() -> None:
    answers = iter([page_of(NextToken="A"), page_of(VolumeSize=2, Blocks=[])])
    tokens = Tokens(lambda _: next(answers))
    with pytest.raises(CloudError, match="size"):
        tokens.token(100)


def test_the_token_of_a_page_expires() -> None:
    listing = Listing(list(range(10)), page=3)

    def forgetful(query: Query) -> Mapping[str, Any]:
        if "pageToken" in query and len(listing.queries) == 2:
            listing.queries.append({})
            raise ClientError({"Error": {"Code": "ValidationException"}, "Reason": "INVALID_PAGE_TOKEN"}, "List")  # type: ignore[typeddict-unknown-key]
        return listing(query)

    found = [index for page in pages(forgetful, "Blocks") for index, _ in page.blocks]
    assert found == list(range(10))


def test_no_blocks_at_all() -> None:
    raw = page_of()
    del raw["Blocks"]
    assert parse_page(raw, "Blocks", 0).blocks == []
    assert Tokens(lambda _: raw).token(7) == TOTAL


def test_a_page_token_without_end() -> None:
    """The model says 256 characters; those of 200 idle pages are remembered and sent."""
    huge = {"BlockSize": 524288, "VolumeSize": 1, "Blocks": [], "NextToken": "x" * 4096}
    with pytest.raises(CloudError, match="agreed form"):
        list(pages(lambda _: huge, "Blocks"))
