"""The answer of POST /explain in the form that was asked for: picture, numbers, or DICOM."""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from strokect.answers import Prediction
from strokect.dicom_out import secondary_capture, structured_report
from strokect.http import Exchange, HttpError
from strokect.overlay import draw_overlay
from strokect.slices import Picture

FORMATS = ("png", "json", "dicom", "dicom-sr")
ACCEPTED = {"application/dicom": "dicom", "application/json": "json"}  # what an Accept header alone asks for


def wanted_format(exchange: Exchange) -> str:
    """One of FORMATS: by the query `map=json` or `format=…`, else by the Accept header. Raises HttpError 400."""
    if exchange.query.get("map") == "json":
        return "json"
    wanted = exchange.query.get("format") or ACCEPTED.get(exchange.headers.get("accept", "").split(";")[0].strip(), "png")
    if wanted not in FORMATS:
        raise HttpError(400, "bad_format", f"the query `format` must be one of {', '.join(FORMATS)}")
    return wanted


def explain(exchange: Exchange, picture: Picture, prediction: Prediction, activation: NDArray[np.float32]) -> Response:
    """The explanation of one slice; a rejected picture has none (HttpError 422).

    Raises ImageError or NotInstalledError where DICOM is wanted and cannot be made, NoResultError for a map that is not finite.
    """
    if prediction.decision == "reject":
        raise HttpError(422, "rejected", f"a rejected picture has no map: {', '.join(prediction.reasons)}")
    wanted, (data,) = wanted_format(exchange), exchange.uploads
    if wanted == "json":
        rows, columns = activation.shape
        body: dict[str, Any] = {"rows": rows, "columns": columns, "map": activation.astype(float).tolist()}
        content, media_type = (
            json.dumps(body | {"prediction": prediction.model_dump()}, allow_nan=False).encode(),
            "application/json",
        )
    elif wanted == "dicom-sr":
        content, media_type = structured_report(data, prediction), "application/dicom"
    else:
        content, media_type = draw_overlay(picture.grey, activation, title=prediction.target), "image/png"
        if wanted == "dicom":
            content, media_type = secondary_capture(data, content, prediction), "application/dicom"
    return Response(content, media_type=media_type, headers=_headers(prediction))


def _headers(prediction: Prediction) -> dict[str, str]:
    """The prediction as headers; only refer has a reason here."""
    headers = {
        "X-Decision": prediction.decision,
        "X-Threshold": repr(prediction.threshold),
        "X-Model-Version": prediction.model_version,
        "X-Reasons": prediction.uncertainty.measure if prediction.decision == "refer" else "",
    }
    return headers | ({} if prediction.probability is None else {"X-Probability": repr(prediction.probability)})
