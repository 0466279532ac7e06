from __future__ import annotations

import base64
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from cloud.aws.blocks import Changed, changed_extents, problem_of
from cloud.aws.transport import BlockAnswer
from core.blocks import Extent
from core.errors import AccessDenied, CloudError, Corrupt, Error, Gone, Throttled, Unreadable
from tests.cloud.aws.ebs import SNAPSHOT, content, opened, service, session
from tests.cloud.aws.ebs_server import BLOCK, Answer, Call, Service, Snapshot, serving

GIB = 1 << 30


def only(
    operation: str, answer: Answer, *, times: int = 10**9, block: int | None = None
) -> Callable[[Call], Answer | None]:
    def fault(call: Call) -> Answer | None:
        wanted = call.operation == operation and call.number <= times and block in {None, call.block}
        return answer if wanted else None

    return fault


def test_it_reads_as_a_file_would() -> None:
    served = service(page=2, empty_pages=1)
    disk = bytearray(GIB)
    for number, data in served.snapshots[SNAPSHOT].blocks.items():
        disk[number * BLOCK : (number + 1) * BLOCK] = data
    chosen = random.Random(3)
    places = [chosen.choice((0, 7, 99, 100, 2046, 2047)) * BLOCK + chosen.randrange(BLOCK) for _ in range(40)]
    with opened(served) as source:
        assert source.size == GIB

        def some(at: int) -> None:
            length = chosen.choice((1, 4096, BLOCK, 2 * BLOCK + 5))
            assert source.read(at, length) == disk[at : at + length]

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(some, places))
        assert source.read(GIB - 3, 10) == disk[-3:]
        assert source.read(GIB, 10) == b""
        assert len(source.read(0, 200 * BLOCK)) == 200 * BLOCK
    assert set(served.got) <= set(served.snapshots[SNAPSHOT].blocks)
    assert "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/" in served.authorizations[0]
    assert "/eu-west-1/ebs/aws4_request" in served.authorizations[0]


def test_only_what_is_read_is_fetched_and_hints_are_fetched_meanwhile() -> None:
    served = service()
    with opened(served) as source:
        source.read(7 * BLOCK + 5, 10)
        assert dict(served.got) == {7: 1}
        source.prefetch([Extent(0, 2 * BLOCK), Extent(50 * BLOCK, 1)])
        deadline = time.monotonic() + 10
        while len(served.got) < 3 and time.monotonic() < deadline:
            time.sleep(0.005)
        source.read(0, 2 * BLOCK)
        assert dict(served.got) == {7: 1, 0: 1, 1: 1}
        assert source.blocks.fetched == 3


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Answer(spoil=True), id="wrong-checksum"),
        pytest.param(Answer(cut=1000), id="cut-short"),
        pytest.param(Answer(reset=True), id="reset"),
        pytest.param(Answer(500, "InternalServerException"), id="server-error"),
        pytest.param(Answer(503, body=b"<html>busy</html>"), id="no-json"),
        pytest.param(Answer(400, "RequestThrottledException", "ACCOUNT_THROTTLED"), id="throttled"),
        pytest.param(Answer(400, "ThrottlingException"), id="throttled-by-name"),
        pytest.param(Answer(400, "ValidationException", "INVALID_BLOCK_TOKEN"), id="token-expired"),
        pytest.param(Answer(headers={"x-amz-Data-Length": "5"}, spoil=True), id="wrong-length"),
    ],
)
def test_what_passes_is_tried_again(answer: Answer) -> None:
    served = service(fault=only("GetSnapshotBlock", answer, times=2))
    with opened(served) as source:
        assert source.read(BLOCK, BLOCK) == content(1)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        pytest.param(Answer(spoil=True), Corrupt, "block 1: its checksum is wrong", id="wrong-checksum"),
        pytest.param(
            Answer(headers={"x-amz-Checksum-Algorithm": "CRC"}, spoil=True),
            Corrupt,
            "unknown kind",
            id="other-checksum",
        ),
        pytest.param(Answer(reset=True), CloudError, "connection failed", id="reset"),
        pytest.param(Answer(500, "InternalServerException"), CloudError, "InternalServer", id="server-error"),
        pytest.param(
            Answer(400, "RequestThrottledException", "RESOURCE_LEVEL_THROTTLE"), Throttled, "throttled", id="quota"
        ),
        pytest.param(Answer(body=bytes(BLOCK + 1)), CloudError, "more than", id="too-long"),
        pytest.param(
            Answer(403, "AccessDeniedException", "UNAUTHORIZED_ACCOUNT"), AccessDenied, "GetSnapshotBlock", id="denied"
        ),
        pytest.param(
            Answer(403, "AccessDeniedException", "DEPENDENCY_ACCESS_DENIED"), AccessDenied, "kms:Decrypt", id="key"
        ),
        pytest.param(
            Answer(404, "ResourceNotFoundException", "SNAPSHOT_NOT_FOUND"), Gone, "not there any more", id="gone"
        ),
        pytest.param(Answer(400, "ValidationException", "INVALID_BLOCK_TOKEN"), CloudError, "Validation", id="token"),
        pytest.param(Answer(400, "ValidationException", "INVALID_BLOCK"), CloudError, "Validation", id="no-block"),
        pytest.param(Answer(hang=True), CloudError, "closed|in time|failed", id="silence"),
    ],
)
def test_what_does_not_pass_is_told(answer: Answer, kind: type[Error], words: str) -> None:
    served = service(fault=only("GetSnapshotBlock", answer, block=1))
    with opened(served, patience_seconds=0.5) as source:
        for _ in range(2):
            with pytest.raises(kind, match=words) as caught:
                source.read(BLOCK, 1)
            assert "blockToken" not in str(caught.value)
            assert "\n" not in str(caught.value)
        asked = served.seen["GetSnapshotBlock", 1]
        with pytest.raises(Error):
            source.read(BLOCK, 1)
        assert served.seen["GetSnapshotBlock", 1] == asked, "what is final is not asked again"
        if kind in {AccessDenied, Gone}:
            with pytest.raises(kind):  # the others would fail as well
                source.read(0, 1)
            assert not served.got


def test_one_bad_block_among_good_ones() -> None:
    served = service(fault=only("GetSnapshotBlock", Answer(spoil=True), block=1))
    with opened(served) as source:
        with pytest.raises(Corrupt):
            source.read(0, 3 * BLOCK)
        assert source.read(2 * BLOCK, BLOCK) == content(2)
        assert source.read(0, BLOCK) == content(0)


def test_when_nothing_comes_any_more_all_fail_at_once() -> None:
    served = service({number: content(0) for number in range(40)})
    with opened(served, patience_seconds=0.3, threads=2) as source:
        source.read(0, 1)
        served.fault = only("GetSnapshotBlock", Answer(reset=True))
        begun = time.monotonic()
        for number in range(1, 40):
            with pytest.raises(CloudError):
                source.read(number * BLOCK, 1)
        assert time.monotonic() - begun < 39 * 0.3


def test_tokens_are_renewed_in_the_middle() -> None:
    served = service(page=3)
    with opened(served) as source:
        source.read(0, 1)
        served.salt += 1  # all tokens that were given are worthless now
        assert source.read(BLOCK, BLOCK) == content(1)
        lists = served.calls["ListSnapshotBlocks"]
        assert source.read(2 * BLOCK, BLOCK) == content(2), "its neighbours' tokens were renewed with it"
        assert served.calls["ListSnapshotBlocks"] == lists


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        pytest.param(
            Answer(403, "AccessDeniedException", "UNAUTHORIZED_ACCOUNT"),
            AccessDenied,
            "ListSnapshotBlocks",
            id="denied",
        ),
        pytest.param(Answer(404, "ResourceNotFoundException", "SNAPSHOT_NOT_FOUND"), Gone, SNAPSHOT, id="gone"),
        pytest.param(Answer(403, "UnrecognizedClientException"), CloudError, "credentials", id="credentials"),
        pytest.param(Answer(body=b"nonsense"), CloudError, "not JSON", id="no-json"),
        pytest.param(Answer(body=b"[]"), CloudError, "not a JSON object", id="no-object"),
        pytest.param(Answer(body=b"{}"), Error, "blocks of None bytes", id="empty"),
        pytest.param(Answer(500, "InternalServerException"), CloudError, "Internal", id="server-error"),
    ],
)
def test_a_snapshot_that_cannot_be_opened(answer: Answer, kind: type[Error], words: str) -> None:
    before = threading.active_count()
    served = service(fault=only("ListSnapshotBlocks", answer))
    with pytest.raises(kind, match=words), opened(served, patience_seconds=0.3):
        pass
    assert threading.active_count() == before


def test_closing_breaks_off_what_is_under_way() -> None:
    served = service(fault=only("GetSnapshotBlock", Answer(hang=True)))
    failed: list[Exception] = []
    with opened(served, read_seconds=30) as source:
        started = threading.Event()

        def read() -> None:
            started.set()
            try:
                source.read(0, 1)
            except Error as error:
                failed.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        started.wait(10)
        while not served.calls["GetSnapshotBlock"]:
            time.sleep(0.005)
        begun = time.monotonic()
        source.close()
        reader.join(10)
        assert time.monotonic() - begun < 3
    assert isinstance(failed[0], Unreadable)
    assert not [one for one in threading.enumerate() if one.name == "fetch"]


def test_a_huge_disk_of_which_little_is_read() -> None:
    """16 TiB, fully written: few pages are listed, and what is kept does not grow with the disk."""

    same = content(9)
    blocks = {number: same for base in (0, 1 << 20, (1 << 25) - 5) for number in range(base, base + 5)}
    served = Service({SNAPSHOT: Snapshot(blocks, volume_gib=16 << 10)}, page=5)
    with opened(served) as source:
        assert source.size == 16 << 40
        assert source.read((16 << 40) - 10, 20) == same[-10:]
        assert source.read((1 << 20) * BLOCK, 3) == same[:3]
        assert source.read((1 << 24) * BLOCK, 3) == bytes(3)
        assert source.lists <= 5


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        pytest.param(BlockAnswer(bytes(BLOCK), str(BLOCK), "", "SHA256"), "checksum is wrong", id="no-checksum"),
        pytest.param(
            BlockAnswer(b"", "0", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "SHA256"), "0 bytes", id="empty"
        ),
        pytest.param(BlockAnswer(bytes(BLOCK), "x", "", "SHA256"), "says 'x'", id="no-length"),
    ],
)
def test_what_is_wrong_with_a_block(answer: BlockAnswer, words: str) -> None:
    assert words in problem_of(answer)


# changed blocks


def changed(served: Service, first: str = "snap-1", second: str = "snap-2", sizes: tuple[int, int] = (0, 0)) -> Changed:
    with serving(served) as address:
        found = changed_extents(
            session(),
            first,
            second,
            region="eu-west-1",
            endpoint=address,
            patience_seconds=1,
            first_bytes=sizes[0],
            second_bytes=sizes[1],
        )
        return Changed(None if found.extents is None else iter(list(found.extents)), found.reason)


@pytest.mark.parametrize(
    ("old", "new", "sizes", "expected"),
    [
        pytest.param([0, 1, 5], [0, 1, 5], (1, 1), [], id="equal"),
        pytest.param([0], [0, 1, 2, 9], (1, 1), [(1, 2), (9, 1)], id="only-in-the-second"),
        pytest.param([0, 3, 4], [0], (1, 1), [(3, 2)], id="only-in-the-first"),
        pytest.param([0], [0, 2047], (1, 2), [(2047, 2049)], id="larger-and-touching"),
        pytest.param([0], [0, 5], (1, 2), [(5, 1), (2048, 2048)], id="larger"),
        pytest.param([0], [0, 2050, 3000], (1, 2), [(2048, 2048)], id="written-in-the-new-part"),
        pytest.param([], [], (1, 2), [(2048, 2048)], id="larger-and-empty"),
    ],
)
@pytest.mark.parametrize("page", [1, 2, 10_000])
def test_changed_extents(
    old: list[int], new: list[int], sizes: tuple[int, int], expected: list[tuple[int, int]], page: int
) -> None:
    same = content(1)
    served = Service(
        {
            "snap-1": Snapshot(dict.fromkeys(old, same), volume_gib=sizes[0]),
            "snap-2": Snapshot(dict.fromkeys(new, same), volume_gib=sizes[1]),
        },
        page=page,
        empty_pages=1,
    )
    found = changed(served, sizes=(sizes[0] * GIB, sizes[1] * GIB))
    assert found.extents is not None
    assert list(found.extents) == [Extent(start * BLOCK, length * BLOCK) for start, length in expected]


def test_changed_extents_are_the_true_difference() -> None:
    chosen = random.Random(11)
    old = {number: content(number) for number in chosen.sample(range(200), 40)}
    new = dict(old) | {number: content(1000 + number) for number in chosen.sample(range(200), 30)}
    for number in chosen.sample(sorted(new), 10):
        del new[number]
    served = Service({"snap-1": Snapshot(old), "snap-2": Snapshot(new)}, page=7)
    found = changed(served)
    assert found.extents is not None
    told = {at // BLOCK for one in found.extents for at in range(one.offset, one.offset + one.length, BLOCK)}
    assert told == {number for number in range(2048) if old.get(number) != new.get(number)}


def test_snapshots_that_cannot_be_compared() -> None:
    served = Service({"snap-1": Snapshot({}, lineage="a"), "snap-2": Snapshot({}, lineage="b")})
    found = changed(served)
    assert found.extents is None
    assert "lineage" in found.reason
    with pytest.raises(Gone):
        changed(served, second="snap-3")
    served.fault = only("ListChangedBlocks", Answer(403, "AccessDeniedException", "UNAUTHORIZED_ACCOUNT"))
    with pytest.raises(AccessDenied, match="ListChangedBlocks"):
        changed(served)


def test_a_comparison_that_fails_half_way() -> None:
    served = Service({"snap-1": Snapshot({}), "snap-2": Snapshot(dict.fromkeys(range(10), content(1)))}, page=2)
    served.fault = lambda call: Answer(404, "ResourceNotFoundException") if call.number > 2 else None
    with pytest.raises(Gone):
        changed(served)


def test_checksums_are_base64_of_sha256() -> None:
    served = service()
    with opened(served) as source:
        source.read(0, 1)
    (summed,) = served._sums.values()
    assert len(base64.b64decode(summed)) == 32
