"""The page behind a service that only plays one, so that its tests need no model: real pictures, made-up answers.

What it answers is written into the files themselves: `mock{"probability": 0.8}` somewhere in the bytes (`note` writes it), or
`mock{"fault": "busy"}` for the errors. It keeps a list of what was asked.
"""

import asyncio
import io
import json
import re
import socket
import threading
import time
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from strokect.dicom import apply_window
from strokect.errors import ImageError
from strokect.files import sha256_bytes
from strokect.head_crop import Square, whole
from strokect.images import GREY_TOLERANCE
from strokect.intended_use import INTENDED_USE, OUT_OF_SCOPE
from strokect.policy import REFER_REASONS, REJECT_REASONS
from strokect.slices import decode, is_dicom

PAGE = Path(__file__).parents[1] / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TARGET = "synthetic bleed or infarct on this slice"
THRESHOLD = 0.35
SERIES_SHARE = 0.5
REFER_ABOVE = 0.97  # entropy: from 0.40 to 0.60
SLOW_S = 1.5
FAULTS = {
    "busy": (429, "busy", "too many requests; try again later"),
    "busy_once": (429, "busy", "too many requests; try again later"),
    "no_result": (500, "no_result", "the model gave no usable number for this picture"),
    "not_ready": (503, "not_ready", "the model is not loaded; the server's log says why"),
    "deadline": (504, "timeout", "the request took too long"),
    "no_map": (500, "no_result", "the model gave no usable number for this picture"),
}


def note(**answer: Any) -> str:
    """The text to put into a file for this answer."""
    return f"mock{json.dumps(answer)}"


@dataclass
class Asked:
    """One request as the server got it."""

    path: str
    query: dict[str, str]
    names: list[str]  # file names of the parts
    status: int


@dataclass
class PageServer:
    """A running server; use as a context manager. With `token`, everything but the page asks for it."""

    token: str = ""
    ready: bool = True
    max_body_mb: int = 31
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    def __enter__(self) -> "PageServer":
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        routes = [
            Route("/", lambda request: FileResponse(PAGE / "index.html")),
            Route("/model", self._model),
            Route("/predict", self._predict, methods=["POST"]),
            Route("/explain", self._explain, methods=["POST"]),
            Route("/view", self._view, methods=["POST"]),
            Route("/predict_series", self._predict_series, methods=["POST"]),
            *(Route(f"/{path.name}", FileResponse(path)) for path in PAGE.iterdir()),
        ]
        app = Starlette(routes=routes, middleware=[Middleware(BaseHTTPMiddleware, dispatch=self._guard)])
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]})
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()

    async def _guard(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        page = request.url.path in ("/", *(f"/{path.name}" for path in PAGE.iterdir()))
        if self.token and not page and request.headers.get("authorization") != f"Bearer {self.token}":
            response: Response = _error(401, "unauthorised", "a bearer token is needed")
        else:
            response = await call_next(request)
        response.headers["content-security-policy"] = POLICY
        response.headers["cache-control"] = "no-store"
        names = getattr(request.state, "names", [])
        self.asked.append(Asked(request.url.path, dict(request.query_params), names, response.status_code))
        return response

    async def _model(self, request: Request) -> Response:
        return JSONResponse(self.describe()) if self.ready else _fault("not_ready")

    def describe(self) -> dict[str, Any]:
        """GET /model, as much of it as the page reads."""
        figure = {"value": 0.893, "ci95": [0.763, 0.977]}
        level = dict.fromkeys(("roc_auc", "sensitivity", "specificity"), figure)
        return {
            "version": "415d1a10a0fd",
            "backbone": "efficientnet_lite0",
            "target": TARGET,
            "models": ["0", "1", "2", "3", "4"],
            "thresholds": {"slice": {"threshold": THRESHOLD}, "patient": {"threshold": THRESHOLD}},
            "metrics": {"slice": level, "patient": level},
            "data": {"source": "phantom"},
            "intended_use": INTENDED_USE,
            "out_of_scope": OUT_OF_SCOPE,
            "settings": {"STROKECT_MAX_BODY_MB": self.max_body_mb},
            "warnings": [],
        }

    async def _files(self, request: Request, name: str) -> list[bytes]:
        async with request.form(max_files=2000) as form:
            parts = [part for part in form.getlist(name) if isinstance(part, UploadFile)]
            request.state.names = [part.filename for part in parts]
            return [await part.read() for part in parts]

    async def _predict(self, request: Request) -> Response:
        (data,) = await self._files(request, "image")
        return await self._fault_of(data, request) or self._judged(data)

    def _judged(self, data: bytes) -> Response:
        try:
            return JSONResponse(answer(data))
        except ImageError as error:
            return _error(415 if error.code == "unknown_format" else 422, error.code, str(error))

    async def _explain(self, request: Request) -> Response:
        (data,) = await self._files(request, "image")
        if _wish(data).get("fault") == "no_map":
            return _fault("no_map")
        judged = answer(data)
        if judged["decision"] == "reject":
            return _error(422, "rejected", ", ".join(judged["reasons"]))
        place = _wish(data).get("square")  # [left, top, side]: what the models saw of it
        square = asdict(Square(*place) if place else whole(*decode(data).grey.shape))
        return JSONResponse({"rows": 8, "columns": 8, "map": fake_map(data).tolist(), "square": square, "prediction": judged})

    async def _view(self, request: Request) -> Response:
        (data,) = await self._files(request, "image")
        if _wish(data).get("fault") == "slow_view":
            await asyncio.sleep(SLOW_S)
        level, width = (float(request.query_params[name]) for name in ("level", "width"))
        stream = io.BytesIO()
        Image.fromarray(windowed(data, level, width)).save(stream, "PNG")
        return Response(stream.getvalue(), media_type="image/png")

    async def _predict_series(self, request: Request) -> Response:
        files = [part for file in await self._files(request, "series") for part in _opened(file)]
        for data in files:
            if fault := await self._fault_of(data, request):
                return fault
        return JSONResponse(await asyncio.to_thread(series_answer, files))

    async def _fault_of(self, data: bytes, request: Request) -> Response | None:
        fault = _wish(data).get("fault")
        if fault == "slow":
            await asyncio.sleep(SLOW_S)
        if fault == "busy_once" and any(asked.status == 429 for asked in self.asked):
            return None
        return _fault(fault) if fault in FAULTS and fault != "no_map" else None


def answer(data: bytes) -> dict[str, Any]:
    """The answer of /predict that a file asks for. Raises ImageError where the service would, too."""
    picture = decode(data)
    wish = _wish(data)
    flags = wish.get("reject", []) + (["colour"] if picture.chroma > GREY_TOLERANCE else [])
    probability = wish.get("probability", 0.1)
    entropy = float(-np.sum([p * np.log2(p) for p in (probability, 1 - probability) if p > 0]))
    refer = entropy > REFER_ABOVE
    decision = "reject" if flags else "refer" if refer else "stroke" if probability >= THRESHOLD else "normal"
    spread = {"mc_std": 0.021, "fold_std": 0.083, "value": entropy}
    if flags:
        spread = dict.fromkeys(spread)  # type: ignore[assignment]
    return {
        "request_id": "3b91ce74022840a7b29c9194042cc597",
        "model_version": "415d1a10a0fd",
        "target": TARGET,
        "input_sha256": sha256_bytes(data),
        "decision": decision,
        "reasons": [REJECT_REASONS[flag] for flag in flags] or ([REFER_REASONS["entropy"]] if refer else []),
        "probability": None if flags else probability,
        "threshold": THRESHOLD,
        "uncertainty": {**spread, "measure": "entropy", "refer_above": REFER_ABOVE},
        "ood": {"score": -1.59, "threshold": 2.65, "flags": flags},
        "latency_ms": 19.15,
    }


def series_answer(files: list[bytes]) -> dict[str, Any]:
    """The answer of /predict_series: mean of the three highest probabilities; DICOM in the order of its instance numbers."""
    judged: list[tuple[int, dict[str, Any]]] = []
    left_out = []
    for number, data in enumerate(files):
        try:
            judged.append((number, answer(data)))
        except ImageError as error:
            left_out.append({"number": number, "code": error.code, "message": str(error)})
    judged.sort(key=lambda pair: (_instance(files[pair[0]]), pair[0]))
    kept = ("decision", "reasons", "probability", "threshold", "uncertainty", "ood", "input_sha256")
    slices = [
        {"number": number, "position": place, **{key: each[key] for key in kept}} for place, (number, each) in enumerate(judged)
    ]
    best = sorted((each for each in slices if each["probability"] is not None), key=lambda each: each["probability"])[-3:]
    share = sum(each["decision"] == "reject" for each in slices) / max(len(slices), 1)
    rejected = share > SERIES_SHARE or not best
    probability = None if rejected else float(np.mean([each["probability"] for each in best]))
    return {
        "request_id": "3b91ce74022840a7b29c9194042cc597",
        "model_version": "415d1a10a0fd",
        "target": TARGET,
        "input_sha256": sha256_bytes(b"".join(files)),
        "decision": "reject" if probability is None else "stroke" if probability >= THRESHOLD else "normal",
        "reasons": ["more than half of the slices are rejected"] if rejected else [],
        "probability": probability,
        "threshold": THRESHOLD,
        "uncertainty": None if rejected else max((each["uncertainty"] for each in best), key=lambda found: found["value"]),
        "ood": {"score": share if slices else None, "threshold": SERIES_SHARE, "flags": []},
        "latency_ms": 412.5,
        "rule": "The probability is the mean of the 3 highest slice probabilities; stroke from 0.350 on.",
        "n_slices": len(slices),
        "slices": slices,
        "left_out": left_out,
    }


def fake_map(data: bytes) -> np.ndarray:
    """(8, 8) float: a hill where the file's note says it is, `at` = [across, down] from 0 to 1, below 0 far from it."""
    across, down = _wish(data).get("at", [0.5, 0.5])
    y, x = (np.mgrid[0:8, 0:8] + 0.5) / 8
    return np.round(2.4 * np.exp(-((x - across) ** 2 + (y - down) ** 2) / 0.03) - 0.2, 4)


def windowed(data: bytes, level: float, width: float) -> np.ndarray:
    """(H, W) uint8: what /view draws."""
    if not is_dicom(data):
        return decode(data).grey
    dataset = pydicom.dcmread(io.BytesIO(data))
    return apply_window(dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept), level, width)


def _opened(data: bytes) -> list[bytes]:
    if not data.startswith(b"PK"):
        return [data]
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        return [opened.read(info) for info in opened.infolist() if not info.is_dir()]


def _instance(data: bytes) -> int:
    return int(pydicom.dcmread(io.BytesIO(data)).get("InstanceNumber") or 0) if is_dicom(data) else 0


def _wish(data: bytes) -> dict[str, Any]:
    found = re.search(rb"mock(\{[^}]*\})", data)
    return json.loads(found[1]) if found else {}


def _fault(name: str) -> Response:
    response = _error(*FAULTS[name])
    if name.startswith("busy"):
        response.headers["retry-after"] = "1"
    return response


def _error(status: int, code: str, message: str) -> Response:
    body = {"code": code, "message": message, "request_id": "5f0c27ee6d3b4b1c9a7f2d8e1b604a95"}
    return JSONResponse({"error": body}, status)
