"""Reads and writes the EC2 query protocol with moto's parser and serializer, so that it is as botocore's model has it."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from moto.core.parse import PROTOCOL_PARSERS
from moto.core.serialize import XFormedAttributePicker, get_serializer_class
from moto.core.utils import get_service_model
from moto.ec2.responses._base_response import EC2BaseResponse
from werkzeug.datastructures import MultiDict

from demo.aws.errors import Answer


def parse_ec2(operation: str, body: bytes) -> dict[str, Any]:
    """The parameters of a request, by the names that boto3 gives them."""
    values = MultiDict(parse_qsl(body.decode(), keep_blank_values=True))
    model = get_service_model("ec2").operation_model(operation)
    request: Any = {"method": "POST", "values": values, "headers": {}, "body": body, "url_path": "/", "url_params": {}}
    return dict(PROTOCOL_PARSERS["ec2"](model).parse(request))


def answer_ec2(operation: str, result: Any) -> Answer:
    """`result` holds what the operation returns, as dictionaries or as moto's own objects."""
    model = get_service_model("ec2").operation_model(operation)
    picker = XFormedAttributePicker(response_transformers=EC2BaseResponse.RESPONSE_KEY_PATH_TO_TRANSFORMER)
    written = get_serializer_class("ec2", "ec2")(operation_model=model, value_picker=picker).serialize(result)
    body = written["body"]
    return Answer(
        written["status_code"], list(written["headers"].items()), body if isinstance(body, bytes) else body.encode()
    )
