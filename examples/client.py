"""A client of the service, as functions and as a command; needs `requests` only.

    python examples/client.py slice.png --explain map.png     one slice: PNG, JPEG or DICOM
    python examples/client.py scan.zip                        a series: a zip, or a folder of DICOM files

Prints the answer as JSON. The token comes from STROKECT_TOKEN. Exit status: 0 answered (whatever the decision), 2 wrong usage,
3 the input was refused, 4 the token was refused, 5 busy, not ready or too slow, 6 no connection or no result.
"""

import argparse
import io
import json
import os
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import requests

TRIES, LONGEST_WAIT_S, TIMEOUTS_S = 6, 60.0, (10, 180)  # to connect, to answer
EXIT = {401: 4, 408: 5, 429: 5, 503: 5, 504: 5}


class ServiceError(Exception):
    """An answer other than 200; `code` is for programs. The request id finds it in the service's log."""

    def __init__(self, response: requests.Response):
        try:
            error = response.json()["error"]
        except (ValueError, KeyError, TypeError):  # of a proxy in between
            error = {"code": "unknown", "message": response.reason, "request_id": "unknown"}
        self.status, self.code = response.status_code, str(error["code"])
        super().__init__(f"{self.status} {self.code}: {error['message']} (request {error['request_id']})")


def post(url: str, route: str, field: str, data: bytes, token: str = "") -> requests.Response:
    """Send one file without its name; while the service is busy, wait as long as it says and send it again."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    for attempt in range(TRIES):
        files = {field: (field, data, "application/octet-stream")}
        response = requests.post(f"{url}/{route}", files=files, headers=headers, timeout=TIMEOUTS_S, allow_redirects=False)
        if response.status_code != 429 or attempt == TRIES - 1:
            break
        wait = response.headers.get("Retry-After", "")
        time.sleep(min(float(wait) if wait.isdigit() else 1.0, LONGEST_WAIT_S))
    if response.status_code != 200:
        raise ServiceError(response)
    return response


def pack(paths: list[Path]) -> bytes:
    """A zip whose members are called 0, 1, …: file names often hold a patient's name."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, path in enumerate(paths):
            archive.writestr(str(number), path.read_bytes())
    return stream.getvalue()


def ask(url: str, path: Path, token: str = "") -> dict[str, Any]:
    """The answer to a slice, or to a series where `path` is a zip or a folder; of a folder every entry names its `file`."""
    if path.is_dir():
        paths = sorted(file for file in path.rglob("*") if file.is_file())
        answer: dict[str, Any] = post(url, "predict_series", "series", pack(paths), token).json()
        for entry in [*answer["slices"], *answer["left_out"]]:
            entry["file"] = str(paths[entry["number"]].relative_to(path))
        return answer
    route, field = ("predict_series", "series") if zipfile.is_zipfile(path) else ("predict", "image")
    return dict(post(url, route, field, path.read_bytes(), token).json())


def main() -> int:
    """Ask, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:3000")
    parser.add_argument("--explain", type=Path, metavar="PNG", help="save the slice under its class activation map here")
    args = parser.parse_args()
    if not args.path.exists() or (args.explain and (args.path.is_dir() or zipfile.is_zipfile(args.path))):
        parser.error("--explain is for single slices" if args.path.exists() else f"there is no {args.path}")
    url, token = args.url.rstrip("/"), os.environ.get("STROKECT_TOKEN", "").rpartition(":")[2]  # id:token, as in the service
    try:
        answer = ask(url, args.path, token)
        print(json.dumps(answer, indent=2))
        if args.explain and answer["decision"] != "reject":  # a rejected picture has no map
            args.explain.write_bytes(post(url, "explain", "image", args.path.read_bytes(), token).content)
    except ServiceError as error:
        print(error, file=sys.stderr)
        return EXIT.get(error.status, 3 if 400 <= error.status < 500 else 6)
    except requests.RequestException as error:
        print(f"no connection to {url}: {type(error).__name__}", file=sys.stderr)
        return 6
    return 0


if __name__ == "__main__":
    sys.exit(main())
