"""The BentoML service: judges brain CT slices and whole series, explains, and says what the model is and is not.

Everything it needs is in the release folder beside this file; it knows no params.yaml and imports neither torch nor timm.
What may come in, and how much of it at once, is decided in strokect/guard.py.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import bentoml
from bentoml.validators import ContentType
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from strokect import json_log, lifecycle, monitoring
from strokect.admission import Admission
from strokect.answers import Prediction, SeriesPrediction
from strokect.audit_log import AuditLog
from strokect.decoding import DecodePool
from strokect.errors import DeadlineError, ImageError, NoResultError, StrokectError
from strokect.explanation import explain
from strokect.guard import Guard, read_page
from strokect.http import EXCHANGE, IMAGE_STATUS, Exchange, HttpError, request_id
from strokect.images import Picture
from strokect.model_card import INTENDED_USE, OUT_OF_SCOPE
from strokect.predictor import Predictor
from strokect.settings import read_settings

logger = logging.getLogger("bentoml.strokect")  # BentoML shows INFO of its own loggers only

SETTINGS = read_settings()
ADMISSION = Admission(SETTINGS.computing, SETTINGS.queue)
PAGE = read_page(Path(__file__).parent / "page")
File = Annotated[Path, ContentType("application/octet-stream")]
Answer = TypeVar("Answer", Prediction, SeriesPrediction, Response)

json_log.install(SETTINGS.log_format)
lifecycle.listen_for_workers()


def show_model(request: Request) -> JSONResponse:
    """GET /model."""
    predictor: Predictor | None = bentoml.get_current_service().predictor
    if predictor is None:
        return HttpError(503).response()
    about: dict[str, Any] = {"intended_use": INTENDED_USE, "out_of_scope": OUT_OF_SCOPE, "settings": SETTINGS.public()}
    return JSONResponse(predictor.describe() | about)


# BentoML's timeout answers in a shape of its own and leaves the work running, so it is set out of reach. Its access log and its
# metrics write any path a client makes up; the guard's do not. Its own routes are POST only, hence the mounted app.
@bentoml.service(
    name="strokect",
    traffic={"timeout": 3600},
    logging={"access": {"enabled": False}},
    metrics={"enabled": True},
    threads=SETTINGS.computing,
)
@bentoml.asgi_app(Starlette(routes=[Route("/model", show_model)]))
class StrokeCT:
    """Classifies brain CT slices and series. Research software, not a medical device."""

    def __init__(self) -> None:
        self.predictor: Predictor | None = None
        self.pool = DecodePool(SETTINGS.decode_workers, SETTINGS.decode_timeout_s, SETTINGS.decode_memory_mb)
        self.audit_log = AuditLog(SETTINGS.audit_log)
        lifecycle.end_within_grace()
        try:
            self.predictor = Predictor(SETTINGS.release)
            monitoring.set_model(self.predictor.release.version)
            logger.info("release %s loaded, %d folds", self.predictor.release.version, len(self.predictor.release.models))
        except Exception as error:
            # Raising would make BentoML restart the worker for ever; alive but not ready can be seen and diagnosed.
            logger.error("not ready: %s", error, exc_info=not isinstance(error, StrokectError))
            lifecycle.give_up_after(SETTINGS.exit_after_s, "the model could not be loaded")

    def __is_ready__(self) -> bool:
        return self.predictor is not None

    @bentoml.on_shutdown
    def close(self) -> None:
        """Leave no decoding process behind."""
        self.pool.close()

    @bentoml.api(route="/predict")
    def predict(self, image: File) -> Prediction:
        """Judge one slice (PNG, JPEG or uncompressed DICOM)."""

        def work(predictor: Predictor, exchange: Exchange) -> Prediction:
            (data,) = exchange.uploads
            picture = self._decode(data, exchange)
            return predictor.predict(data, exchange.request_id, exchange.deadline, picture)

        return self._answer(work)

    @bentoml.api(route="/predict_series")
    def predict_series(self, series: list[File]) -> SeriesPrediction:
        """Judge a whole series (a zip of DICOM files, or several parts)."""

        def work(predictor: Predictor, exchange: Exchange) -> SeriesPrediction:
            began = time.monotonic()
            members = self.pool.members(exchange.uploads, exchange.deadline, SETTINGS.max_slices)
            monitoring.observe_phase("decode", time.monotonic() - began)
            return predictor.predict_series(members, exchange.request_id, exchange.deadline)

        return self._answer(work)

    @bentoml.api(route="/explain")
    def explain(self, image: File) -> Response:
        """Judge one slice and show where the answer comes from."""

        def work(predictor: Predictor, exchange: Exchange) -> Response:
            (data,) = exchange.uploads
            prediction, activation = predictor.explain(data, self._decode(data, exchange), exchange.request_id, exchange.deadline)
            return explain(exchange, prediction, activation)

        return self._answer(work)

    @bentoml.api(route="/view")
    def view(self, image: File) -> Response:
        """The slice itself as a PNG, in a window of one's choice if it is DICOM."""

        def work(predictor: Predictor, exchange: Exchange) -> Response:
            (data,) = exchange.uploads
            return Response(self.pool.view(data, *window_of(exchange.query), exchange.deadline), media_type="image/png")

        return self._answer(work)
