"""The OpenAPI document: valid, complete, and (slow) found true by schemathesis on the running service."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
from fakes import dicom_bytes, encode, fake_release, grey_slice
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis.specs.openapi import checks
from serving import Server, serve

from strokect.answers import Prediction, SeriesPrediction
from strokect.guard import OPENAPI, OTHERS, UPLOADS
from strokect.http import ErrorBody
from strokect.openapi import EXAMPLE_INPUT, ROUTES, document
from strokect.predictor import Predictor

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "bentoml", "serve", "service:StrokeCT"]
DOCUMENT = document("0123456789ab")
PNG = encode(grey_slice())
FILES = (PNG, encode(grey_slice(), "JPEG"), dicom_bytes(np.full((64, 64), 1064, np.int16)), PNG[:200], b"")


def test_the_document_is_valid() -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []


def test_it_says_what_it_is_not_and_which_release_answers() -> None:
    assert "not a medical device" in DOCUMENT["info"]["description"] and DOCUMENT["info"]["version"] == "0123456789ab"


def test_every_address_of_the_guard_is_described() -> None:
    assert {OPENAPI, *OTHERS} - {"/schema.json", "/healthz"} <= DOCUMENT["paths"].keys()
    fields = {route.path: route.upload for route in ROUTES if route.upload}
    assert fields == {path: upload.field for path, upload in UPLOADS.items()}


def test_answers_have_the_fields_of_the_models(tmp_path: Path) -> None:
    schemas = DOCUMENT["components"]["schemas"]
    answer = Predictor(fake_release(tmp_path)).predict(PNG).model_dump(mode="json")
    assert list(answer) == schemas["Prediction"]["required"] == list(Prediction.model_fields)
    assert schemas["SeriesPrediction"]["required"] == list(SeriesPrediction.model_fields)
    assert {"type": "null"} in schemas["Prediction"]["properties"]["probability"]["anyOf"]
    assert schemas["ErrorDetail"]["required"] == ["code", "message", "request_id"]


def test_examples_of_errors_are_errors_that_say_what_to_do_next() -> None:
    for name, response in DOCUMENT["components"]["responses"].items():
        ErrorBody.model_validate(response["content"]["application/json"]["example"])
        assert ("Retry-After" in response["headers"]) is (name == "Error429")
        assert ("WWW-Authenticate" in response["headers"]) is (name == "Error401")


def test_only_probes_and_the_page_need_no_token() -> None:
    free = {path for path, item in DOCUMENT["paths"].items() for operation in item.values() if operation.get("security") == []}
    assert free == {"/", "/livez", "/readyz"}
    assert DOCUMENT["security"] == [{}, {"bearer": []}]


def test_the_example_input_is_made_by_its_command(tmp_path: Path) -> None:
    command = re.search(r"python (-c \".*?\")$", EXAMPLE_INPUT, re.DOTALL | re.MULTILINE)
    assert command
    code = shlex.split(command[1])[1]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=60)
    assert (tmp_path / "slice.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("openapi")
    with serve(COMMAND, ROOT, folder, STROKECT_RELEASE=str(fake_release(folder)), STROKECT_QUEUE="20") as running:
        yield running


@pytest.fixture(scope="module")
def api() -> Any:
    schemathesis.openapi.format("binary", st.sampled_from(FILES) | st.binary(max_size=300))
    return schemathesis.openapi.from_dict(DOCUMENT)


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_the_service_answers_as_the_document_says(server: Server, api: Any, route: Any) -> None:
    seen: set[int] = set()

    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=api[route.path][route.method.upper()].as_strategy())
    def ask(case: Any) -> None:
        response = case.call(base_url=server.url)
        seen.add(response.status_code)
        case.validate_response(response, checks=CHECKS)

    ask()
    assert 200 in seen
    if route.upload == "image":  # of a series, files that cannot be read are left out of the answer
        assert seen & {400, 415, 422}


CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
