"""The answer of POST /explain in the form that was asked for: picture, numbers, or DICOM."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from strokect.answers import Prediction
from strokect.dicom_out import require_highdicom, secondary_capture, structured_report
from strokect.errors import DeadlineError
from strokect.files import sha256_bytes
from strokect.head_crop import Crop, seen_square
from strokect.http import Exchange, HttpError
from strokect.identity import Source, not_dicom, source_of
from strokect.images import Picture
from strokect.overlay import draw_overlay
from strokect.slices import is_dicom

FORMATS = ("png", "json", "dicom", "dicom-sr")
ReadIdentity = Callable[[bytes, float], dict[str, bytes]]  # a file and the deadline → see `identity.read_identity`
ACCEPTED = {"application/dicom": "dicom", "application/json": "json"}  # what an Accept header alone asks for


def wanted_format(exchange: Exchange) -> str:
    """One of FORMATS: by the query `map=json` or `format=…`, else by the Accept header. Raises HttpError 400."""
    if exchange.query.get("map") == "json":
        return "json"
    wanted = exchange.query.get("format") or ACCEPTED.get(exchange.headers.get("accept", "").split(";")[0].strip(), "png")
    if wanted not in FORMATS:
        raise HttpError(400, "bad_format", f"the query `format` must be one of {', '.join(FORMATS)}")
    return wanted


@dataclass(frozen=True)
class Wanted:
    """One of FORMATS, and for DICOM the slice that the answer will join."""

    format: str
    source: Source | None = None


def check_format(exchange: Exchange, read_identity: ReadIdentity) -> Wanted:
    """What is wanted and can be made. Call it before judging: a request that fails here has had no decision to write down.

    Raises HttpError 400 for an unknown format; where DICOM is wanted also NotInstalledError, ImageError for an upload that no
    DICOM object can join, and DeadlineError. `read_identity` is `DecodePool.identity`.
    """
    wanted, (data,) = wanted_format(exchange), exchange.uploads
    if wanted not in ("dicom", "dicom-sr"):
        return Wanted(wanted)
    require_highdicom()
    if not is_dicom(data):
        raise not_dicom()  # no decoder is needed to see that
    return Wanted(wanted, source_of(read_identity(data, exchange.deadline), sha256_bytes(data)))


def explain(
    wanted: Wanted, picture: Picture, prediction: Prediction, activation: NDArray[np.float32], crop: Crop, deadline: float
) -> Response:
    """The explanation of one slice, of which the models saw what `crop` leaves; a rejected picture has none (HttpError 422).

    Raises NoResultError for a map that is not finite, DeadlineError when it is made after `deadline` (time.monotonic).
    """
    if prediction.decision == "reject":
        raise HttpError(422, "rejected", f"a rejected picture has no map: {', '.join(prediction.reasons)}")
    square = seen_square(picture.grey, crop)
    if wanted.format == "json":
        rows, columns = activation.shape
        body: dict[str, Any] = {"rows": rows, "columns": columns, "map": activation.astype(float).tolist()}
        body["square"] = asdict(square)
        content, media_type = (
            json.dumps(body | {"prediction": prediction.model_dump()}, allow_nan=False).encode(),
            "application/json",
        )
    elif wanted.format == "dicom-sr":
        assert wanted.source is not None  # `check_format` has read it
        content, media_type = structured_report(wanted.source, prediction), "application/dicom"
    else:
        content, media_type = draw_overlay(picture.grey, activation, square, title=prediction.target), "image/png"
        if wanted.source is not None:
            content, media_type = secondary_capture(wanted.source, content, prediction), "application/dicom"
    if time.monotonic() >= deadline:
        raise DeadlineError("the time allowed for this request is over")
    return Response(content, media_type=media_type, headers=_headers(prediction))


def _headers(prediction: Prediction) -> dict[str, str]:
    """The prediction as headers."""
    headers = {
        "X-Decision": prediction.decision,
        "X-Threshold": repr(prediction.threshold),
        "X-Model-Version": prediction.model_version,
    }
    if prediction.probability is not None:
        headers["X-Probability"] = repr(prediction.probability)
    if prediction.decision == "refer":
        headers["X-Reasons"] = prediction.uncertainty.measure
    return headers
