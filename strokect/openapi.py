"""The OpenAPI document that GET /docs.json serves, made of the answers' own models, so that it cannot drift away from them.

BentoML writes one too, but it knows neither the errors of the guard nor the routes beside its own, and calls the upload a path.
tests/test_openapi.py lets schemathesis compare every route of this document with what the running service answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from strokect.answers import Prediction, SeriesPrediction
from strokect.explanation import FORMATS
from strokect.head_crop import Crop
from strokect.http import CODES, ErrorBody, HttpError

Schema = dict[str, Any]

MODELS: tuple[type[BaseModel], ...] = (Prediction, SeriesPrediction, ErrorBody)
UPLOAD_ERRORS = (400, 401, 408, 413, 415, 422, 429, 500, 503, 504)
DESCRIPTION = """\
Classifies brain CT slices. **Research software, not a medical device**: it must not be used to diagnose, triage or treat, and a
`normal` answer does not rule out a stroke. What `stroke` means depends on the labels that the model learned: read `target` in
every answer and `intended_use` of GET /model.

Pictures are PNG or JPEG (8-bit grey, brain window) or DICOM, as a file part of a multipart body. URLs are never fetched. A model
of other windows than the brain window (`windows_hu` of GET /model) takes DICOM only (415, code `needs_hounsfield`). The same
bytes get the same answer in every field but `request_id` and `latency_ms`. Every error is `{"error": {"code", "message",
"request_id"}}`, that of an unknown address (404) and of a method that an address does not take (405) as well. After 429, wait for
the seconds of `Retry-After`.

Where the operator has set tokens, everything but the probes and the page's files wants `Authorization: Bearer …`.
"""
EXAMPLE_INPUT = """\
The picture. An example without anybody's data is a slice of the synthetic phantom that the repository makes:

    python -c "from PIL import Image; from strokect.phantom import make_cohort, window; \
Image.fromarray(window(list(make_cohort(patients=1, slices=5, size=512, seed=0))[2].hu)).save('slice.png')"
    curl -F image=@slice.png http://127.0.0.1:3000/predict
"""
SERIES_INPUT = """\
One zip of a series, or its slices as several parts of this name. Slices are sorted by their position in the patient, not by their
names or order; what is no axial CT slice of the series is left out and listed in `left_out` with a reason.
"""
ABOUT: Schema = {
    "type": "object",
    "description": "What the model is, how good it is on which data, what it is not for, and the settings of this deployment.",
    "required": [
        *("version", "target", "classes", "models", "image_size", "thresholds", "policy", "metrics", "safety", "data", "audit"),
        *("warnings", "intended_use", "out_of_scope", "settings"),
    ],
    "properties": {
        "version": {"type": "string", "description": "12 hex over the release's files; `model_version` of every answer"},
        "target": {"type": "string", "description": "what a positive answer means, in words"},
        "classes": {"type": "array", "items": {"type": "string"}},
        "models": {"type": "array", "items": {"type": "string"}},
        "image_size": {"type": "integer"},
        "crop": {"type": "string", "enum": list(get_args(Crop)), "description": "head: models see each slice cut to its head"},
        "thresholds": {"type": "object", "required": ["slice", "patient"]},
        "policy": {"type": "object", "description": "every limit by which a picture is rejected, referred or labelled"},
        "metrics": {"type": "object", "description": "figures with 95 % intervals"},
        "safety": {"type": "object", "description": "what the safety layer refuses, rightly and wrongly"},
        "data": {"type": "object"},
        "audit": {"type": "object"},
        "warnings": {"type": "array", "items": {"type": "string"}},
        "intended_use": {"type": "string"},
        "out_of_scope": {"type": ["string", "array"], "items": {"type": "string"}},
        "settings": {"type": "object", "description": "what the operator has set; no secret, no path"},
    },
}
ACTIVATION: Schema = {
    "type": "object",
    "required": ["rows", "columns", "map", "square", "prediction"],
    "properties": {
        "rows": {"type": "integer"},
        "columns": {"type": "integer"},
        "map": {
            "type": "array",
            "items": {"type": "array", "items": {"type": "number"}},
            "description": "class activation map, rows × columns; what speaks for `stroke` is positive. Not a localisation.",
        },
        "square": {
            "type": "object",
            "required": ["left", "top", "side"],
            "properties": {name: {"type": "integer"} for name in ("left", "top", "side")},
            "description": "what the map covers, in pixels of the picture; it may reach beyond the picture",
        },
        "prediction": {"$ref": "#/components/schemas/Prediction"},
    },
}
PREDICTION_HEADERS: dict[str, Schema] = {
    "X-Decision": {"type": "string", "enum": ["stroke", "normal", "refer"]},
    "X-Probability": {"type": "number"},
    "X-Threshold": {"type": "number"},
    "X-Model-Version": {"type": "string"},
    "X-Reasons": {"type": "string", "description": "codes, comma separated"},
}
BINARY: Schema = {"type": "string", "format": "binary"}
TEXT: Schema = {"type": "string"}
ANY_DOCUMENT: Schema = {"type": "object", "required": ["openapi"]}
FORMATS_MEANING = (
    "dicom: the picture as Secondary Capture, dicom-sr: the answer as Structured Report, both for a DICOM slice, in its study, "
    "and only where the server has highdicom (else 501). `Accept: application/dicom` asks for the former, too"
)
WINDOW = {
    "level": "centre of the window in HU; ignored for PNG and JPEG",
    "width": "width of the window in HU; ignored for PNG and JPEG",
}


def ref(name: str) -> Schema:
    """A reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


@dataclass(frozen=True)
class Route:
    """One method of one address. `answers` maps content types to schemas; `open`: needs no token even where tokens are set."""

    method: str
    path: str
    summary: str
    answers: Mapping[str, Schema]
    errors: tuple[int, ...] = (500,)
    upload: str = ""  # name of the file field
    query: Mapping[str, Schema] = field(default_factory=dict)
    headers: Mapping[str, Schema] = field(default_factory=dict)
    open: bool = False


ROUTES = (
    Route("post", "/predict", "Judge one slice", {"application/json": ref("Prediction")}, UPLOAD_ERRORS, "image"),
    Route("post", "/predict_series", "Judge a series", {"application/json": ref("SeriesPrediction")}, UPLOAD_ERRORS, "series"),
    Route(
        "post",
        "/explain",
        "The slice under its class activation map; a rejected picture has none (422, code `rejected`)",
        {"image/png": BINARY, "application/json": ACTIVATION, "application/dicom": BINARY},
        (*UPLOAD_ERRORS, 501),
        "image",
        query={
            "map": {"type": "string", "enum": ["json"], "description": "the map as numbers instead of a picture"},
            "format": {"type": "string", "enum": list(FORMATS), "description": FORMATS_MEANING},
        },
        headers=PREDICTION_HEADERS,
    ),
    Route(
        "post",
        "/view",
        "The slice as a picture in a window of one's own",
        {"image/png": BINARY},
        UPLOAD_ERRORS,
        "image",
        query={name: {"type": "number", "description": meaning} for name, meaning in WINDOW.items()},
    ),
    Route("get", "/model", "What the model is and is not", {"application/json": ABOUT}, (401, 429, 500, 503)),
    Route("get", "/metrics", "Figures for Prometheus", {"text/plain": TEXT}, (401, 429, 500)),
    Route("get", "/docs.json", "This document", {"application/json": ANY_DOCUMENT}, (401, 429, 500)),
    Route("get", "/", "The page", {"text/html": TEXT}, open=True),
    Route("get", "/livez", "The process is alive", {"text/plain": TEXT}, open=True),
    Route("get", "/readyz", "The release is verified and answers", {"text/plain": TEXT}, (500, 503), open=True),
)


def document(version: str) -> Schema:
    """The document of a service whose release is `version`."""
    paths: dict[str, Schema] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method] = operation(route)
    _, definitions = models_json_schema([(m, "serialization") for m in MODELS], ref_template="#/components/schemas/{model}")
    info = {"title": "strokect", "version": version, "description": DESCRIPTION, "license": {"name": "MIT", "identifier": "MIT"}}
    return {
        "openapi": "3.1.0",
        "info": info,
        "servers": [{"url": "/"}],
        "security": [{}, {"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "responses": {f"Error{status}": error_response(status) for status in sorted({*UPLOAD_ERRORS, 500, 501})},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "description": "only where tokens are set"}},
        },
    }


def operation(route: Route) -> Schema:
    """A route as an operation object."""
    headers = {"X-Request-Id": {"type": "string"}, **route.headers}
    answer = {
        "description": route.summary,
        "headers": {name: {"schema": schema} for name, schema in headers.items()},
        "content": {kind: {"schema": schema} for kind, schema in route.answers.items()},
    }
    errors = {str(status): {"$ref": f"#/components/responses/Error{status}"} for status in route.errors}
    described: Schema = {
        "operationId": f"{route.method}_{route.path.strip('/').replace('.', '_') or 'page'}",
        "summary": route.summary,
        "responses": {"200": answer, **errors},
    }
    if route.query:
        described["parameters"] = [
            {"name": name, "in": "query", "schema": {k: v for k, v in schema.items() if k != "description"}}
            | {"description": schema["description"]}
            for name, schema in route.query.items()
        ]
    if route.upload:
        described["requestBody"] = {"required": True, "content": {"multipart/form-data": upload(route.upload)}}
    if route.open:
        described["security"] = []
    return described


def upload(name: str) -> Schema:
    """A multipart body with the file field `name`: one picture, or a series."""
    part = {**BINARY, "description": EXAMPLE_INPUT}
    if name == "series":
        part = {"type": "array", "items": BINARY, "minItems": 1, "description": SERIES_INPUT}
    return {"schema": {"type": "object", "required": [name], "properties": {name: part}}}


def error_response(status: int) -> Schema:
    """An error as a response object; `message` is the usual one, many errors say more."""
    code, message = CODES.get(status, (HttpError(status).code, str(HttpError(status))))
    example = {"error": {"code": code, "message": message, "request_id": "3b91ce74022840a7b29c9194042cc597"}}
    content = {"schema": ref("ErrorBody"), "example": example}
    described: Schema = {
        "description": message,
        "headers": {"X-Request-Id": {"schema": {"type": "string"}}},
        "content": {"application/json": content},
    }
    if status == 401:
        described["headers"]["WWW-Authenticate"] = {"schema": {"type": "string"}, "required": True}
    if status == 429:
        described["headers"]["Retry-After"] = {"schema": {"type": "integer"}, "description": "seconds", "required": True}
    return described
