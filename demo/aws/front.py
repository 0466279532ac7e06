"""The door: every request to the emulator is identified, logged, checked and perhaps spoilt here before anybody answers it.

EBS direct and the snapshot actions of EC2 are ours; everything else goes to moto.
"""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, unquote

from demo.aws.answers import StartResponse, drop, send
from demo.aws.control import HEADER, PATH, Control
from demo.aws.ebs import EbsDirect
from demo.aws.ec2 import Ec2
from demo.aws.ec2_protocol import answer_ec2, parse_ec2
from demo.aws.errors import Answer, ApiError, answer_error, invalid, not_found
from demo.aws.events import Announcer
from demo.aws.identity import Identities, internal, no_permission, scope_of, throttled, wrong_credentials
from demo.aws.permissions import needs, refusal
from demo.aws.requests import Environ, Request, read, resources_of
from demo.aws.routes import operation_of
from demo.aws.rules import Call, Caller, CallLog, Fault, FaultKind, Rules
from demo.aws.snapshots import Library

Application = Callable[[Environ, StartResponse], Iterable[bytes]]
_EBS_PATH = re.compile(r"/snapshots(?:/([^/]+)(?:/(blocks|changedblocks)(?:/([^/]+))?)?)?")


class Front:
    """The WSGI application."""

    def __init__(self, library: Library, rules: Rules, log: CallLog, identities: Identities, moto: Application) -> None:
        self.ebs = EbsDirect(library)
        self.announcer = Announcer(library.clock)
        self.control: Control | None = None
        self.ec2 = Ec2(library)
        self._library = library
        self._rules = rules
        self._log = log
        self._identities = identities
        self._moto = moto

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        request = read(environ)
        if request.path == PATH and self.control:
            status, value = self.control.answer(request.headers.get(HEADER, ""), request.body)
            return send(_json_answer(status, value), None, environ, start_response)
        try:
            answer, fault = self._serve(request)
        except _Dropped:
            drop(environ)
            raise
        return send(answer, fault, environ, start_response)

    def _serve(self, request: Request) -> tuple[Answer, Fault | None]:
        scope = scope_of(request.headers)
        if scope is None:
            return answer_error("ec2", ApiError("MissingAuthenticationToken", "Request is not signed", 403)), None
        service = scope.service
        operation = operation_of(service, request.method, request.path, request.headers, request.body)
        caller = Caller("", scope.region, "", scope.access_key)
        call = Call(service, operation, caller, at=self._library.clock.now())
        fault: Fault | None = None
        try:
            key = self._identities.check(scope, request.headers)
            self._identities.verify(scope, key, request.signed())
            caller = call.caller = Caller(key.account, scope.region, key.principal, scope.access_key)
            call.resources, names = resources_of(request, service, caller)
            if self._rules.region_disabled(caller.account, caller.region):
                raise wrong_credentials(service)
            fault = self._rules.fault(call.action, names)
            if fault:
                self._before(fault, service)
            self._permitted(call, request)
            answer = self._answer(request, call)
        except _Dropped:
            call.error = "dropped"
            self._log.add(call)
            raise
        except ApiError as error:
            answer = answer_error(service, error)
            call.error = error.code
        call.status = answer.status
        self._log.add(call)
        return answer, fault

    def _before(self, fault: Fault, service: str) -> None:
        if fault.kind is FaultKind.ERROR_500:
            raise internal(service)
        if fault.kind is FaultKind.ERROR:
            raise ApiError(fault.code, "This went wrong on purpose.", fault.status)
        if fault.kind is FaultKind.THROTTLED:
            raise throttled(service)
        if fault.kind is FaultKind.RESET:
            raise _Dropped
        if fault.kind is FaultKind.EXPIRE_TOKENS:
            self.ebs.tokens.expire()

    def _permitted(self, call: Call, request: Request) -> None:
        """Raise `ApiError` if the caller may not do this, or if the request only asks whether it may."""
        rules, caller = self._rules, call.caller
        needed = [call.action]
        if call.service == "ec2":
            if rules.limits.exceeded(f"ec2 for {caller.account}", rules.limits.ec2_per_account):
                raise throttled("ec2")
            if b"TagSpecification." in request.body and call.operation != "CreateTags":
                needed.append("ec2:CreateTags")  # as AWS has it for tags given at creation
                new = call.resources
                if "Snapshot" in call.operation:
                    new = (f"arn:aws:ec2:{caller.region}::snapshot/*",)
                tagging = replace(call, operation="CreateTags", resources=new, implied=True)
                self._log.add(tagging)
        if call.action == "sts:AssumeRole":
            self._assumable(call, dict(parse_qsl(request.body.decode())))
        for action in needed:
            if rules.denied(action, caller, call.resources):
                raise no_permission(call.service, action, caller.principal, ", ".join(call.resources[:1]))
        if rules.policies:
            params = parse_ec2(call.operation, request.body) if call.service == "ec2" else {}
            if need := refusal(rules, caller, needs(call, params)):
                raise no_permission(call.service, need.action, caller.principal, need.resource)
        if call.service == "ec2" and b"DryRun=true" in request.body:
            call.dry_run = True
            raise ApiError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)

    def _assumable(self, call: Call, form: Mapping[str, str]) -> None:
        role = form.get("RoleArn", "")
        wanted = self._rules.external_ids.get(role)
        if role in self._rules.refused_roles or (wanted is not None and form.get("ExternalId") != wanted):
            raise no_permission("sts", "sts:AssumeRole", call.caller.principal, role)

    def _answer(self, request: Request, call: Call) -> Answer:
        if call.service == "ebs":
            return self._answer_ebs(request, call)
        if call.service == "ec2" and call.operation in self.ec2.actions:
            params = parse_ec2(call.operation, request.body)
            crowd = self.ec2.crowds.get((call.caller.account, call.caller.region))
            if crowd and crowd.answers(call.operation):
                return crowd.answer(call.operation, params)
            return answer_ec2(call.operation, self.ec2.actions[call.operation](call.caller, params))
        return self._answer_moto(request, call)

    def _answer_ebs(self, request: Request, call: Call) -> Answer:
        ebs, caller = self.ebs, call.caller
        match = _EBS_PATH.fullmatch(request.path)
        if match is None and request.method != "POST":
            raise not_found("There is nothing at this address.")
        snapshot_id, kind, block = match.groups() if match else (None, None, None)
        if call.operation == "StartSnapshot":
            fields = ebs.start_snapshot(caller, _json(request.body))
            self._adopt(str(fields["SnapshotId"]))
            return _json_answer(201, fields)
        if call.operation == "CompleteSnapshot":
            name = unquote(request.path.rpartition("/")[2])
            return _json_answer(202, ebs.complete_snapshot(caller, name, request.headers))
        if call.operation == "ListSnapshotBlocks":
            return _json_answer(200, ebs.list_snapshot_blocks(caller, str(snapshot_id), request.query))
        if call.operation == "ListChangedBlocks":
            return _json_answer(200, ebs.list_changed_blocks(caller, str(snapshot_id), request.query))
        if kind != "blocks" or not block or not re.fullmatch("[0-9]{1,12}", block):
            raise invalid("The block index is not valid.", "INVALID_BLOCK")
        if call.operation == "PutSnapshotBlock":
            checksum = ebs.put_snapshot_block(caller, str(snapshot_id), int(block), request.headers, request.body)
            headers = [("x-amz-Checksum", checksum), ("x-amz-Checksum-Algorithm", "SHA256")]
            return Answer(201, [*headers, ("Content-Type", "application/json")], b"{}")
        if latency := self._rules.limits.block_latency_seconds:
            time.sleep(latency)
        found = ebs.get_snapshot_block(caller, str(snapshot_id), int(block), request.query.get("blockToken", ""))
        headers = [("x-amz-Data-Length", str(len(found.data))), ("x-amz-Checksum", found.checksum)]
        headers += [("x-amz-Checksum-Algorithm", "SHA256"), ("Content-Type", "application/octet-stream")]
        return Answer(200, headers, found.data)

    def _adopt(self, snapshot_id: str) -> None:
        snapshot = self._library.snapshots[snapshot_id]
        if not snapshot.adopted:
            self.ec2.adopt(snapshot)
            snapshot.adopted = True

    def _answer_moto(self, request: Request, call: Call) -> Answer:
        volumes = self._volumes_at_stake(call)
        answer = _ask(self._moto, request)
        if call.action == "sts:AssumeRole" and (key := re.search(rb"<AccessKeyId>(\w+)<", answer.body)):
            self._identities.key(key[1].decode())  # its time runs from now on
        if call.service == "ec2" and answer.status == 200:
            made = {match[0].decode() for match in re.finditer(rb"\b(?:i|vol)-[0-9a-f]{8,17}\b", answer.body)}
            if call.operation == "RunInstances":
                self.ec2.started(call.caller, sorted(one for one in made if one.startswith("i-")))
            elif call.operation == "CreateVolume":
                for volume in sorted(one for one in made if one.startswith("vol-")):
                    self.ec2.created_volume(call.caller, volume)
            self.ec2.forget_gone_volumes(call.caller, volumes)
            self.announcer.told(call, sorted(one for one in made if one.startswith("i-")))
        return answer

    def _volumes_at_stake(self, call: Call) -> list[str]:
        if call.action not in ("ec2:DeleteVolume", "ec2:TerminateInstances"):
            return []
        names = [arn.rpartition("/")[2] for arn in call.resources]
        return [*names, *self.ec2.volumes_of(call.caller, names)]


class _Dropped(Exception):
    """The connection is to end now."""


def _json(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body or b"{}")
    except ValueError as error:
        raise ApiError("SerializationException", "The body is not JSON.") from error
    if not isinstance(fields, dict):
        raise ApiError("SerializationException", "The body is not an object.")
    return fields


def _json_answer(status: int, fields: Any) -> Answer:
    return Answer(status, [("Content-Type", "application/json")], json.dumps(fields).encode())


def _ask(application: Application, request: Request) -> Answer:
    """What another WSGI application answers."""
    said: list[tuple[int, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
        said.append((int(status.split(maxsplit=1)[0]), headers))

    request.environ["wsgi.input"] = io.BytesIO(request.body)
    chunks = application(request.environ, start_response)
    try:
        body = b"".join(chunks)
    finally:
        if close := getattr(chunks, "close", None):
            close()
    status, headers = said[-1]
    return Answer(status, [(name, value) for name, value in headers if name.lower() != "content-length"], body)
