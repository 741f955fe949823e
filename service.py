"""The BentoML service: POST /predict judges one brain CT slice, GET /model says what the model is and is not.

Everything it needs is in the release folder beside this file; it knows no params.yaml and imports neither torch nor timm.
"""

import logging
import os
import time
from pathlib import Path
from typing import Annotated, Any

import bentoml
from bentoml.validators import ContentType
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from strokect import json_log, monitoring
from strokect.errors import DeadlineError, ImageError, NoResultError, StrokectError
from strokect.http import IMAGE_STATUS, REQUEST_ID, Guard, HttpError
from strokect.model_card import INTENDED_USE, OUT_OF_SCOPE
from strokect.predictor import Prediction, Predictor
from strokect.settings import read_settings

logger = logging.getLogger("bentoml.strokect")  # BentoML shows INFO of its own loggers only
SETTINGS = read_settings()
if SETTINGS.log_format == "json":
    json_log.install()

RELEASE = Path(os.environ.get("STROKECT_RELEASE") or Path(__file__).parent / "models" / "release")
DEADLINE_S = 30.0  # of one prediction; Guard has its own for the body


def show_model(request: Request) -> JSONResponse:
    """GET /model."""
    predictor: Predictor | None = bentoml.get_current_service().predictor
    if predictor is None:
        return HttpError(503).response()
    settings = {"STROKECT_RELEASE": "set" if os.environ.get("STROKECT_RELEASE") else "default"}  # a path tells about the host
    about: dict[str, Any] = {"intended_use": INTENDED_USE, "out_of_scope": OUT_OF_SCOPE, "settings": settings}
    return JSONResponse(predictor.describe() | about)


def show_metrics(request: Request) -> Response:
    """GET /metrics."""
    content, media_type = monitoring.exposition()
    return Response(content, media_type=media_type)


# BentoML's timeout answers in a shape of its own and leaves the work running, so it is set out of reach. Its access log writes
# any path a client makes up, and its metrics keep every such path as a label for ever; Guard's and monitoring's do not. Its own
# routes are POST only, hence the mounted app.
@bentoml.service(name="strokect", traffic={"timeout": 300}, logging={"access": {"enabled": False}}, metrics={"enabled": False})
@bentoml.asgi_app(Starlette(routes=[Route("/model", show_model), Route("/metrics", show_metrics)]))
class StrokeCT:
    """Classifies single brain CT slices. Research software, not a medical device."""

    def __init__(self) -> None:
        self.predictor: Predictor | None = None
        monitoring.start_metrics()
        try:
            self.predictor = Predictor(RELEASE)
            monitoring.set_ready(self.predictor.release.version)
            logger.info("release %s loaded, %d folds", self.predictor.release.version, len(self.predictor.release.models))
        except Exception as error:
            # Raising would make BentoML restart the worker for ever; alive but not ready can be seen and diagnosed.
            logger.error("not ready: %s", error, exc_info=not isinstance(error, StrokectError))

    def __is_ready__(self) -> bool:
        return self.predictor is not None

    @bentoml.api(route="/predict")
    def predict(self, image: Annotated[Path, ContentType("application/octet-stream")]) -> Prediction:
        """Judge one slice (PNG, JPEG or uncompressed DICOM)."""
        try:
            if self.predictor is None:
                raise HttpError(503)
            return self.predictor.predict(image.read_bytes(), REQUEST_ID.get(), time.monotonic() + DEADLINE_S)
        except ImageError as error:
            problem = HttpError(IMAGE_STATUS.get(error.code, 422), error.code, str(error))
        except NoResultError as error:
            logger.error("request %s: %s", REQUEST_ID.get(), error)
            problem = HttpError(500, "no_result", "the model gave no usable number for this picture")
        except DeadlineError:
            problem = HttpError(504)
        except HttpError as error:
            problem = error
        # BentoML sends a Response as it is. A union in the annotation instead would break its /docs.json.
        return problem.response()  # type: ignore[return-value]


StrokeCT.add_asgi_middleware(Guard)  # type: ignore[attr-defined]  # the decorator made it a bentoml Service
