"""The EBS direct APIs, as strict as their documents: order, paging, tokens that end, lineage, checksums, rights.

Sources: botocore's `ebs` service model (2019-11-02); Amazon EBS User Guide, "Use EBS direct APIs to access the contents of
an EBS snapshot", its FAQ and its quotas.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from demo.aws.content import BLOCK, GIB, BlockMap
from demo.aws.errors import ApiError, invalid, not_found
from demo.aws.rules import Caller
from demo.aws.snapshots import Library, Snapshot, new_lineage
from demo.aws.tokens import Tokens

BLOCK_TOKEN_SECONDS = 7 * 86400
PAGE_TOKEN_SECONDS = 3600
MIN_PAGE, MAX_PAGE, DEFAULT_PAGE = 100, 10_000, 10_000
MAX_VOLUME_GIB = 65_536
_ID = re.compile(r"snap-[0-9a-f]{1,59}")


@dataclass(frozen=True)
class BlockAnswer:
    data: bytes
    checksum: str  # SHA-256 in base64


class EbsDirect:
    """The operations. Raises `ApiError` as AWS would."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self.tokens = Tokens()

    def list_snapshot_blocks(self, caller: Caller, snapshot_id: str, query: Mapping[str, str]) -> dict[str, Any]:
        snapshot = self._readable(caller, snapshot_id)
        self._throttle_list(caller)
        expires = self._library.clock.now() + BLOCK_TOKEN_SECONDS
        page, next_token = self._page(f"list {snapshot.id}", query, _indexes(snapshot.blocks))
        blocks = [{"BlockIndex": index, "BlockToken": self._block_token(snapshot, index, expires)} for index in page]
        return self._listing("Blocks", blocks, snapshot, expires, next_token)

    def list_changed_blocks(self, caller: Caller, second_id: str, query: Mapping[str, str]) -> dict[str, Any]:
        second = self._readable(caller, second_id)
        first_id = query.get("firstSnapshotId", "")
        first = self._readable(caller, first_id) if first_id else None
        self._throttle_list(caller)
        if first and first.lineage != second.lineage:
            raise invalid("The snapshots are not of the same volume or lineage.", "UNRELATED_SNAPSHOTS")
        if first and first.size_gib > second.size_gib:
            raise invalid("The first snapshot is larger than the second.", "INVALID_VOLUME_SIZE")
        old = first.blocks if first else BlockMap()
        expires = self._library.clock.now() + BLOCK_TOKEN_SECONDS
        purpose = f"changed {first_id} {second_id}"
        page, next_token = self._page(purpose, query, sorted(set(_different(old, second.blocks))))
        changed: list[dict[str, Any]] = []
        for index in page:
            one: dict[str, Any] = {"BlockIndex": index}
            if first and first.blocks.slot(index) is not None:
                one["FirstBlockToken"] = self._block_token(first, index, expires)
            if second.blocks.slot(index) is not None:
                one["SecondBlockToken"] = self._block_token(second, index, expires)
            changed.append(one)
        return self._listing("ChangedBlocks", changed, second, expires, next_token)

    def get_snapshot_block(self, caller: Caller, snapshot_id: str, index: int, token: str) -> BlockAnswer:
        snapshot = self._readable(caller, snapshot_id)
        limits = self._library.rules.limits
        if limits.exceeded(f"blocks of {snapshot.id}", limits.blocks_per_snapshot):
            raise _throttled("RESOURCE_LEVEL_THROTTLE")
        if limits.exceeded(f"blocks for {caller.account}", limits.blocks_per_account):
            raise _throttled("ACCOUNT_THROTTLED")
        try:
            self.tokens.read(token, f"block {snapshot.id} {index}", self._library.clock.now())
        except ValueError as error:
            raise invalid(f"The block token is not valid: {error}.", "INVALID_BLOCK_TOKEN") from error
        slot = snapshot.blocks.slot(index)
        if slot is None:
            raise not_found(f"Snapshot {snapshot_id} has no block {index}.", "DEPENDENCY_RESOURCE_NOT_FOUND")
        store = self._library.store
        return BlockAnswer(store.read(slot), base64.b64encode(store.digest(slot)).decode())

    def start_snapshot(self, caller: Caller, body: Mapping[str, Any]) -> dict[str, Any]:
        size = body.get("VolumeSize")
        if not isinstance(size, int) or not 1 <= size <= MAX_VOLUME_GIB:
            raise invalid("VolumeSize must be 1 to 65536 GiB.", "INVALID_VOLUME_SIZE")
        parent_id = body.get("ParentSnapshotId") or ""
        if parent_id and body.get("Encrypted"):
            raise invalid("ParentSnapshotId and Encrypted cannot be given together.")
        with self._library.lock:
            known = self._started(caller, body)
            if known is None:
                known = self._start(caller, body, size, parent_id)
        return self._started_answer(known)

    def _started(self, caller: Caller, body: Mapping[str, Any]) -> Snapshot | None:
        """What an earlier call with the same client token made. Raises `ApiError` if that call was another one."""
        token = body.get("ClientToken")
        if not token:
            return None
        said = json.dumps({key: body[key] for key in sorted(body) if key != "ClientToken"})
        before = self._library.tokens.get((caller.account, caller.region, token))
        if before is None:
            return None
        snapshot_id, _, text = before.partition(" ")
        if text != said:
            raise ApiError("ConflictException", "The client token was used with other parameters.", 409)
        return self._library.snapshots.get(snapshot_id)

    def _start(self, caller: Caller, body: Mapping[str, Any], size: int, parent_id: str) -> Snapshot:
        library = self._library
        parent = self._readable(caller, parent_id) if parent_id else None
        if parent and parent.size_gib > size:
            raise invalid("VolumeSize is less than that of the parent.", "INVALID_VOLUME_SIZE")
        key = parent.key if parent else self._key(caller, body)
        tags = {str(tag.get("Key")): str(tag.get("Value", "")) for tag in body.get("Tags") or []}
        made = Snapshot(
            f"snap-{secrets.token_hex(9)[:17]}",
            caller.account,
            caller.region,
            size,
            library.store.share(parent.blocks) if parent else BlockMap(),
            parent.lineage if parent else new_lineage(),
            "vol-ffffffff",
            library.clock.now(),
            description=str(body.get("Description") or ""),
            key=key,
            parent=parent_id,
            direct=True,
            tags=tags,
            timeout_seconds=60.0 * int(body.get("Timeout") or 60),
        )
        library.add(made)
        if token := body.get("ClientToken"):
            said = json.dumps({name: body[name] for name in sorted(body) if name != "ClientToken"})
            library.tokens[caller.account, caller.region, token] = f"{made.id} {said}"
        return made

    def _key(self, caller: Caller, body: Mapping[str, Any]) -> str:
        keys = self._library.keys
        name = body.get("KmsKeyArn")
        if not body.get("Encrypted"):
            if name:
                raise invalid("KmsKeyArn needs Encrypted.")
            return ""
        if not name:
            return keys.default(caller.account, caller.region)
        try:
            key = keys.resolve(str(name), caller.account, caller.region)
        except ApiError as error:
            raise invalid("The KMS key does not exist.", "INVALID_CUSTOMER_KEY") from error
        if not keys.may(caller, "kms:GenerateDataKeyWithoutPlaintext", key):
            raise _no_key(caller, "kms:GenerateDataKeyWithoutPlaintext", key)
        return key

    @staticmethod
    def _started_answer(snapshot: Snapshot) -> dict[str, Any]:
        optional = {"ParentSnapshotId": snapshot.parent, "KmsKeyArn": snapshot.key, "Description": snapshot.description}
        return {
            "SnapshotId": snapshot.id,
            "OwnerId": snapshot.account,
            "Status": "pending",
            "StartTime": snapshot.started,
            "VolumeSize": snapshot.size_gib,
            "BlockSize": BLOCK,
            "SseType": "sse-kms" if snapshot.key else "none",
            "Tags": [{"Key": key, "Value": value} for key, value in snapshot.tags.items()],
            **{name: value for name, value in optional.items() if value},
        }

    def put_snapshot_block(
        self, caller: Caller, snapshot_id: str, index: int, headers: Mapping[str, str], data: bytes
    ) -> str:
        """Write one block; its checksum."""
        snapshot = self._writable(caller, snapshot_id)
        if headers.get("x-amz-checksum-algorithm") != "SHA256":
            raise invalid("Only SHA256 checksums are supported.")
        if headers.get("x-amz-data-length") != str(BLOCK) or len(data) != BLOCK:
            raise invalid(f"A block has {BLOCK} bytes.", "INVALID_BLOCK")
        if not 0 <= index < snapshot.size_gib * GIB // BLOCK:
            raise invalid("The block is outside of the volume.", "INVALID_BLOCK")
        digest = hashlib.sha256(data).digest()
        checksum = base64.b64encode(digest).decode()
        if headers.get("x-amz-checksum") != checksum:
            raise invalid("The checksum is not that of the data.", "INVALID_BLOCK")
        with self._library.lock:
            before = snapshot.blocks.set(index, self._library.store.put(data))
            if before is not None:
                self._library.store.release([before])
            snapshot.written[index] = digest
            snapshot.last_write = self._library.clock.now()
        return checksum

    def complete_snapshot(self, caller: Caller, snapshot_id: str, headers: Mapping[str, str]) -> dict[str, Any]:
        snapshot = self._writable(caller, snapshot_id)
        with self._library.lock:
            count = headers.get("x-amz-changedblockscount", "")
            if count != str(len(snapshot.written)):
                raise invalid(f"{len(snapshot.written)} blocks were written, not {count or 'none'}.")
            said = headers.get("x-amz-checksum")
            if said:
                texts = [base64.b64encode(digest) for _, digest in sorted(snapshot.written.items())]
                if said != base64.b64encode(hashlib.sha256(b"".join(texts)).digest()).decode():
                    raise invalid("The aggregated checksum is wrong.")
            snapshot.direct = False  # from here on it completes as others do
            snapshot.written.clear()
            return {"Status": self._library.state(snapshot)}

    def _find(self, caller: Caller, snapshot_id: str) -> Snapshot:
        if not _ID.fullmatch(snapshot_id):
            raise invalid(f"The snapshot id is not valid: {snapshot_id[:64]}", "INVALID_SNAPSHOT_ID")
        snapshot = self._library.snapshots.get(snapshot_id)
        if snapshot is None or snapshot.region != caller.region:
            raise not_found(f"The snapshot {snapshot_id} does not exist.")
        return snapshot

    def _readable(self, caller: Caller, snapshot_id: str) -> Snapshot:
        snapshot = self._find(caller, snapshot_id)
        if not snapshot.visible_to(caller.account):
            message = f"Account {caller.account} has no access to snapshot {snapshot_id}."
            raise ApiError("AccessDeniedException", message, 403, "UNAUTHORIZED_ACCOUNT")
        state = self._library.state(snapshot)
        if state != "completed":
            raise invalid(f"The snapshot {snapshot_id} is in the state {state}.", "INVALID_SNAPSHOT_ID")
        if snapshot.key and not self._library.keys.may(caller, "kms:Decrypt", snapshot.key):
            raise _no_key(caller, "kms:Decrypt", snapshot.key)
        return snapshot

    def _writable(self, caller: Caller, snapshot_id: str) -> Snapshot:
        snapshot = self._find(caller, snapshot_id)
        if snapshot.account != caller.account:
            message = f"Snapshot {snapshot_id} belongs to another account."
            raise ApiError("AccessDeniedException", message, 403, "UNAUTHORIZED_ACCOUNT")
        if not snapshot.direct or self._library.state(snapshot) != "pending":
            raise invalid(f"The snapshot {snapshot_id} takes no more blocks.", "INVALID_SNAPSHOT_ID")
        return snapshot

    def _throttle_list(self, caller: Caller) -> None:
        limits = self._library.rules.limits
        if limits.exceeded(f"lists for {caller.account}", limits.lists_per_account):
            raise _throttled("ACCOUNT_THROTTLED")

    def _page(self, purpose: str, query: Mapping[str, str], indexes: Any) -> tuple[list[int], str | None]:
        """One page of rising `indexes`, and the token for the next. `query` has maxResults, pageToken, startingBlockIndex."""
        # the FAQ: less than 100 is served as 100
        size = max(_number(query, "maxResults", DEFAULT_PAGE, MAX_PAGE), MIN_PAGE)
        size = min(size, self._library.rules.blocks_per_page or size)
        now = self._library.clock.now()
        token = query.get("pageToken")
        start = _number(query, "startingBlockIndex", 0, 1 << 40)
        if token:
            try:
                start = self.tokens.read(token, purpose, now)
            except ValueError as error:
                raise invalid(f"The page token is not valid: {error}.", "INVALID_PAGE_TOKEN") from error
        at = bisect_left(indexes, start)
        page = list(indexes[at : at + size])
        if at + size >= len(indexes):
            return page, None
        return page, self.tokens.make(purpose, int(indexes[at + size]), now + PAGE_TOKEN_SECONDS)

    def _block_token(self, snapshot: Snapshot, index: int, expires: float) -> str:
        return self.tokens.make(f"block {snapshot.id} {index}", index, expires)

    @staticmethod
    def _listing(
        name: str, items: list[dict[str, Any]], snapshot: Snapshot, expires: float, next_token: str | None
    ) -> dict[str, Any]:
        answer: dict[str, Any] = {
            name: items,
            "ExpiryTime": expires,
            "VolumeSize": snapshot.size_gib,
            "BlockSize": BLOCK,
        }
        if next_token:
            answer["NextToken"] = next_token
        return answer


def _indexes(blocks: BlockMap) -> Any:
    return blocks.indexes


def _different(old: BlockMap, new: BlockMap) -> Iterator[int]:
    """Blocks that only one side has, or that both have with different contents (equal contents share a slot)."""
    before = dict(zip(old.indexes, old.slots, strict=True))
    for index, slot in zip(new.indexes, new.slots, strict=True):
        if before.pop(index, None) != slot:
            yield index
    yield from before


def _number(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) > most:
        raise invalid(f"{name} is not valid: {text[:64]}")
    return int(text)


def _throttled(reason: str) -> ApiError:
    return ApiError("RequestThrottledException", "Rate exceeded", 400, reason)


def _no_key(caller: Caller, action: str, key: str) -> ApiError:
    message = f"User: {caller.principal} is not authorized to perform: {action} on resource: {key}"
    return ApiError("AccessDeniedException", message, 403, "DEPENDENCY_ACCESS_DENIED")
