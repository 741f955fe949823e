"""The BentoML service: judges brain CT slices and whole series, explains, and says what the model is and is not.

Everything it needs is in the release folder beside this file; it knows no params.yaml and imports neither torch nor timm.
What may come in, and how much of it at once, is decided in strokect/guard.py.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import bentoml
import numpy as np
from bentoml.validators import ContentType
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from strokect import json_log, lifecycle, monitoring
from strokect.admission import Admission
from strokect.answers import Prediction, SeriesPrediction, reason_codes
from strokect.audit_log import AuditLog
from strokect.decoding import DecodePool
from strokect.errors import (
    DeadlineError,
    ImageError,
    NoResultError,
    NotInstalledError,
    SettingsError,
    StrokectError,
)
from strokect.explanation import check_format, explain
from strokect.guard import Guard, read_page
from strokect.http import EXCHANGE, IMAGE_STATUS, Exchange, HttpError
from strokect.images import Picture
from strokect.intended_use import INTENDED_USE, OUT_OF_SCOPE
from strokect.predictor import Predictor
from strokect.settings import read_settings
from strokect.window import window_of

logger = logging.getLogger("bentoml.strokect")  # BentoML shows INFO of its own loggers only

try:
    SETTINGS = read_settings()
except SettingsError as error:
    raise SystemExit(f"error: {error}") from None  # one line for the person who set it, and no service
ADMISSION = Admission(SETTINGS.computing, SETTINGS.queue, monitoring.set_load)
PAGE = read_page(Path(__file__).parent / "page")
File = Annotated[Path, ContentType("application/octet-stream")]

if SETTINGS.log_format == "json":
    json_log.install()
lifecycle.without_traces()
lifecycle.listen_for_workers()


def show_model(request: Request) -> JSONResponse:
    """GET /model."""
    predictor: Predictor | None = bentoml.get_current_service().predictor
    if predictor is None:
        return HttpError(503).response()
    about: dict[str, Any] = {"intended_use": INTENDED_USE, "out_of_scope": OUT_OF_SCOPE, "settings": SETTINGS.public()}
    return JSONResponse(predictor.describe() | about)


def show_metrics(request: Request) -> Response:
    """GET /metrics."""
    content, media_type = monitoring.exposition()
    return Response(content, media_type=media_type)


# BentoML's timeout answers in a shape of its own and leaves the work running, so it is set out of reach. Its access log writes
# any path a client makes up, and its metrics keep every such path as a label for ever; the guard's and monitoring's do not. Its
# own routes are POST only, hence the mounted app.
@bentoml.service(
    name="strokect",
    traffic={"timeout": 3600},
    threads=SETTINGS.computing,
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
@bentoml.asgi_app(Starlette(routes=[Route("/model", show_model), Route("/metrics", show_metrics)]))
class StrokeCT:
    """Classifies brain CT slices and series. Research software, not a medical device."""

    def __init__(self) -> None:
        self.predictor: Predictor | None = None
        lifecycle.end_within_grace()
        monitoring.start_metrics()
        self.pool = DecodePool(SETTINGS.decode_workers, SETTINGS.decode_timeout_s, SETTINGS.decode_memory_mb)
        try:
            self.predictor = Predictor(SETTINGS.release)
            self.pool.wait_ready(time.monotonic() + SETTINGS.exit_after_s)
            self.audit_log = AuditLog(SETTINGS.audit_log, self.predictor.release.version, SETTINGS.audit_key)
            monitoring.set_ready(self.predictor.release.version)
            logger.info("release %s loaded, %d folds", self.predictor.release.version, len(self.predictor.release.models))
        except Exception as error:
            # Raising would make BentoML restart the worker for ever; alive but not ready can be seen and diagnosed.
            self.predictor = None
            logger.error("not ready: %s", error, exc_info=not isinstance(error, StrokectError))
            lifecycle.give_up_after(SETTINGS.exit_after_s, "the model could not be loaded")

    def __is_ready__(self) -> bool:
        return self.predictor is not None

    @bentoml.on_shutdown
    def close(self) -> None:
        """Leave no decoding process behind."""
        self.pool.close()

    # The files of a request are in its exchange; what BentoML hands over are stand-ins (strokect/uploads.py).

    @bentoml.api(route="/predict")
    def predict(self, image: File) -> Prediction:
        """Judge one slice (PNG, JPEG or DICOM)."""
        return self._answer(lambda predictor, exchange: self._explain(predictor, exchange)[0])

    @bentoml.api(route="/explain")
    def explain(self, image: File) -> Annotated[Path, ContentType("image/png")]:
        """Judge one slice and show what speaks for the target: a picture, numbers or DICOM."""

        def work(predictor: Predictor, exchange: Exchange) -> Response:
            wanted = check_format(exchange, self.pool.identity)  # refused before anything is judged and written down
            prediction, picture, activation = self._explain(predictor, exchange)
            return explain(wanted, picture, prediction, activation, predictor.release.judge.crop, exchange.deadline)

        return self._answer(work)

    @bentoml.api(route="/view")
    def view(self, image: File) -> Annotated[Path, ContentType("image/png")]:
        """The slice itself, in a window of one's own if it is DICOM."""

        def work(predictor: Predictor, exchange: Exchange) -> Response:
            png = self.pool.view(exchange.uploads[0], *window_of(exchange.query), exchange.deadline)
            return Response(png, media_type="image/png")

        return self._answer(work)

    @bentoml.api(route="/predict_series")
    def predict_series(self, series: list[File]) -> SeriesPrediction:
        """Judge a whole series: a zip of DICOM files, or its files as several parts."""

        def work(predictor: Predictor, exchange: Exchange) -> SeriesPrediction:
            with monitoring.phase("decode"):
                members = self.pool.members(exchange.uploads, exchange.deadline, SETTINGS.max_slices, predictor.windows)
            with monitoring.phase("judge"):
                answer = predictor.predict_series(members, exchange.request_id, exchange.deadline, lambda: exchange.gone)
            self._record(exchange, answer)
            return answer

        return self._answer(work)

    def _explain(self, predictor: Predictor, exchange: Exchange) -> tuple[Prediction, Picture, NDArray[np.float32]]:
        """Decode and judge the one picture of an exchange, and write the answer down."""
        (data,) = exchange.uploads
        with monitoring.phase("decode"):
            picture = self.pool.picture(data, exchange.deadline, predictor.windows)
        with monitoring.phase("judge"):
            prediction, activation = predictor.explain(data, picture, exchange.deadline, exchange.request_id)
        self._record(exchange, prediction)
        return prediction, picture, activation

    def _answer(self, work: Callable[[Predictor, Exchange], Any]) -> Any:
        """Do the work of a request in its slot; whatever goes wrong is an error of our one shape, and never a label."""
        exchange = EXCHANGE.get()
        try:
            assert exchange.slot is not None  # the guard lets nothing compute without
            with exchange.slot.work():
                if self.predictor is None:
                    raise HttpError(503)
                return work(self.predictor, exchange)
        except ImageError as error:
            problem = HttpError(IMAGE_STATUS.get(error.code, 422), error.code, str(error))
        except NoResultError as error:
            logger.error("request %s: %s", exchange.request_id, error)
            problem = HttpError(500, "no_result", "the model gave no usable number for this picture")
        except DeadlineError:
            problem = HttpError(504)
        except NotInstalledError as error:
            problem = HttpError(501, message=str(error))
        except HttpError as error:
            problem = error
        except StrokectError as error:  # no decoder, or no audit line: an answer that cannot be written down is not given
            logger.error("request %s: %s", exchange.request_id, error)
            problem = HttpError(500)
        # BentoML sends a Response as it is. A union in the annotations instead would break its schema.
        return problem.response()

    def _record(self, exchange: Exchange, answer: Prediction | SeriesPrediction) -> None:
        """Metrics and the audit line of an answer, before it goes out: an answer that cannot be written down is not given."""
        if exchange.route in monitoring.JUDGED:
            monitoring.count_decision(exchange.route, answer.decision, answer.ood.flags)
            gate_score = answer.ood.score if isinstance(answer, Prediction) else None
            monitoring.observe_scores(exchange.route, answer.probability, gate_score)
        self.audit_log.write(
            {
                "request_id": exchange.request_id,
                "token_id": exchange.token_id,
                "route": exchange.route,
                "input_sha256": answer.input_sha256,
                "model_version": answer.model_version,
                "decision": answer.decision,
                "reasons": reason_codes(answer),
                "latency_ms": answer.latency_ms,
            }
        )


StrokeCT.add_asgi_middleware(Guard, settings=SETTINGS, admission=ADMISSION, page=PAGE)  # type: ignore[attr-defined]  # the decorator made it a bentoml Service
