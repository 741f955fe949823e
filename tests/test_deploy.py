"""What can be known about the Cloud Run deployment without a cloud: its YAML, its script, and that they fit the service."""

import io
import os
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from strokect.files import read_json
from strokect.guard import PROBES
from strokect.settings import read_settings
from strokect.uploads import BODY_TIMEOUT_S

ROOT = Path(__file__).parents[1]
CLOUDRUN = ROOT / "deploy" / "cloudrun"
SCRIPT, RUNBOOK = CLOUDRUN / "deploy.sh", CLOUDRUN / "runbook.md"
SERVICE = yaml.safe_load((CLOUDRUN / "service.yaml").read_text())
SPEC = SERVICE["spec"]["template"]["spec"]
CONTAINER = SPEC["containers"][0]
ANSWERED_WITHOUT_COMPUTING = 3  # places for the page, /model and a 429
BODY_COPIES = 4
VERSION = "012345678901"  # all digits: YAML quotes it, or it would be a number


def closed(required: str, **properties: Any) -> dict[str, Any]:
    """An object with these properties and no other; the first argument names those that must be there."""
    return {"type": "object", "required": required.split(), "properties": properties, "additionalProperties": False}


TEXT, COUNT = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 1}
LABELS = {"type": "object", "additionalProperties": {"type": "string"}}  # Kubernetes takes strings only: "1", "true"
PROBE = closed(
    "httpGet periodSeconds timeoutSeconds failureThreshold",
    httpGet=closed("path", path={"type": "string", "pattern": "^/"}, port=COUNT),
    initialDelaySeconds={"type": "integer", "minimum": 0, "maximum": 240},
    periodSeconds={"type": "integer", "minimum": 1, "maximum": 240},
    timeoutSeconds={"type": "integer", "minimum": 1, "maximum": 240},
    failureThreshold=COUNT,
)
SECRET_KEY = closed("secretKeyRef", secretKeyRef=closed("name key", name=TEXT, key=TEXT))
VARIABLE = {"oneOf": [closed("name value", name=TEXT, value=TEXT), closed("name valueFrom", name=TEXT, valueFrom=SECRET_KEY)]}
FILE = closed("key path", key=TEXT, path=TEXT)
# The part of a Knative serving.knative.dev/v1 Service that Cloud Run reads and this deployment uses.
KNATIVE = closed(
    "apiVersion kind metadata spec",
    apiVersion={"const": "serving.knative.dev/v1"},
    kind={"const": "Service"},
    metadata=closed("name", name=TEXT, labels=LABELS, annotations=LABELS),
    spec=closed(
        "template traffic",
        template=closed(
            "metadata spec",
            metadata=closed("name", name=TEXT, labels=LABELS, annotations=LABELS),
            spec=closed(
                "containers containerConcurrency timeoutSeconds",
                serviceAccountName=TEXT,
                containerConcurrency={"type": "integer", "minimum": 1, "maximum": 1000},
                timeoutSeconds={"type": "integer", "minimum": 1, "maximum": 3600},
                containers={
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 1,
                    "items": closed(
                        "image ports resources env",
                        image=TEXT,
                        ports={"type": "array", "maxItems": 1, "items": closed("containerPort", name=TEXT, containerPort=COUNT)},
                        resources=closed("limits", limits=closed("cpu memory", cpu=TEXT, memory=TEXT)),
                        env={"type": "array", "items": VARIABLE},
                        volumeMounts={"type": "array", "items": closed("name mountPath", name=TEXT, mountPath=TEXT)},
                        startupProbe=PROBE,
                        livenessProbe=PROBE,
                    ),
                },
                volumes={
                    "type": "array",
                    "items": closed(
                        "name secret",
                        name=TEXT,
                        secret=closed("secretName items", secretName=TEXT, items={"type": "array", "items": FILE}),
                    ),
                },
            ),
        ),
        traffic={
            "type": "array",
            "items": closed(
                "percent", latestRevision={"type": "boolean"}, revisionName=TEXT, percent={"type": "integer", "maximum": 100}
            ),
        },
    ),
)


def environment() -> dict[str, str]:
    return {variable["name"]: variable.get("value", "x" * 40) for variable in CONTAINER["env"]}


@pytest.fixture
def settings(tmp_path: Path) -> Any:
    """What the service reads on Cloud Run, the secret's file standing in for the mounted one."""
    mount = CONTAINER["volumeMounts"][0]["mountPath"]
    named = Path(environment()["STROKECT_TOKEN_FILE"])
    assert str(named.parent) == mount and named.name == SPEC["volumes"][0]["secret"]["items"][0]["path"]
    (tmp_path / "tokens").write_text("router-a:a-token-of-some-length\n")
    return read_settings({**environment(), "STROKECT_TOKEN_FILE": str(tmp_path / "tokens")})


def test_the_yaml_is_a_knative_service() -> None:
    assert [error.message for error in Draft202012Validator(KNATIVE).iter_errors(SERVICE)] == []


@pytest.mark.parametrize(
    "path, value",
    [("spec.template.spec.containerConcurency", 8), ("spec.template.metadata.annotations.x", 1), ("kind", "Deployment")],
)
def test_the_schema_finds_mistakes(path: str, value: Any) -> None:
    broken = yaml.safe_load((CLOUDRUN / "service.yaml").read_text())
    *parents, last = path.split(".")
    place = broken
    for name in parents:
        place = place[name]
    place[last] = value
    assert list(Draft202012Validator(KNATIVE).iter_errors(broken))


def test_every_variable_is_a_setting_with_an_allowed_value(settings: Any) -> None:
    assert settings.tokens and settings.audit_key and settings.log_format == "json"
    assert {name for name in environment() if not name.startswith("STROKECT_")} == {"BENTOML_DO_NOT_TRACK"}


def test_cloud_run_lets_in_what_the_service_admits(settings: Any) -> None:
    assert {"STROKECT_COMPUTING", "STROKECT_QUEUE"} <= environment().keys()  # not left to the cores of the machine it lands on
    assert SPEC["containerConcurrency"] == settings.computing + settings.queue + ANSWERED_WITHOUT_COMPUTING
    assert SPEC["timeoutSeconds"] >= max(settings.deadline_s, settings.series_deadline_s) + BODY_TIMEOUT_S
    assert settings.max_body_mb < 32


def test_probes_ask_addresses_that_the_service_has_and_wait_for_its_own_verdict(settings: Any) -> None:
    startup, liveness = CONTAINER["startupProbe"], CONTAINER["livenessProbe"]
    assert (startup["httpGet"]["path"], liveness["httpGet"]["path"]) == ("/readyz", "/livez")
    assert {"/readyz", "/livez"} <= set(PROBES)
    window = startup["periodSeconds"] * startup["failureThreshold"]
    assert settings.exit_after_s < window <= 240 and startup["timeoutSeconds"] <= startup["periodSeconds"]


def test_memory_covers_the_measured_peak_and_what_may_come_on_top(settings: Any) -> None:
    networks = read_json(ROOT / "docs" / "results" / "service.json")["networks"]
    peak = max(network["peak_mb"] for network in networks.values()) * 1e6 / 2**20
    decoders = settings.decode_workers * settings.decode_memory_mb
    bodies = SPEC["containerConcurrency"] * settings.max_body_mb * BODY_COPIES
    unit = {"Gi": 1024, "Mi": 1}[CONTAINER["resources"]["limits"]["memory"][-2:]]
    limit = int(CONTAINER["resources"]["limits"]["memory"][:-2]) * unit
    assert peak + decoders + bodies <= limit <= 8 * 1024
    runbook = RUNBOOK.read_text()
    assert f"{settings.decode_workers} × {settings.decode_memory_mb} | {decoders} |" in runbook
    assert f"{SPEC['containerConcurrency']} × {settings.max_body_mb} × {BODY_COPIES}" in runbook and f"| {bodies} |" in runbook


def test_the_scripts_are_clean() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    done = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert SCRIPT.stat().st_mode & 0o111


def deploy(tmp_path: Path, **variables: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run deploy.sh on a bento that only says its version; bentoml, docker and gcloud write down how they were called."""
    with tarfile.open(tmp_path / "strokect.bento", "w:xz") as archive:
        content = f"service: service:StrokeCT\nname: strokect\nversion: '{VERSION}'\nbentoml_version: 1.4.39\n".encode()
        member = tarfile.TarInfo("./bento.yaml")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    (tmp_path / "bin").mkdir()
    calls = tmp_path / "calls"
    for name in ("bentoml", "docker", "gcloud"):
        program = tmp_path / "bin" / name
        program.write_text(
            f'#!/bin/sh\necho "{name} $*" >>"{calls}"\n[ "$3" = replace ] && cp "$4" "{tmp_path}/sent.yaml"\n'
            '[ "$1" != get ] && { [ "$3" != describe ] || echo https://strokect.example; }\n'
        )
        program.chmod(0o755)
    given = {
        "PROJECT": "a-project",
        "REGION": "a-region",
        "REPOSITORY": "registry.example/a-project/images",
        "SERVICE_ACCOUNT": "strokect@a-project.example",
        "TOKEN_VERSION": "3",
        "AUDIT_KEY_VERSION": "1",
        "BENTO": str(tmp_path / "strokect.bento"),
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    }
    kept = {name: value for name, value in (given | variables).items() if value}
    done = subprocess.run(["bash", str(SCRIPT)], env=kept, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    return done, calls.read_text().splitlines() if calls.exists() else []


def test_deploying_builds_pushes_and_replaces_under_the_bentos_version(tmp_path: Path) -> None:
    done, calls = deploy(tmp_path)
    assert done.returncode == 0, done.stderr
    image = f"registry.example/a-project/images/strokect:{VERSION}"
    assert [re.sub(r"/\S*tmp\S*", "FILE", call) for call in calls] == [
        f"bentoml get strokect:{VERSION}",
        "bentoml import FILE",
        f"bentoml containerize strokect:{VERSION} --opt platform=linux/amd64 --image-tag {image}",
        f"docker push {image}",
        "gcloud run services replace FILE --project a-project --region a-region",
        "gcloud run services describe strokect --project a-project --region a-region --format value(status.url)",
    ]
    sent = yaml.safe_load((tmp_path / "sent.yaml").read_text())
    assert "${" not in yaml.safe_dump(sent) and list(Draft202012Validator(KNATIVE).iter_errors(sent)) == []
    template = sent["spec"]["template"]
    assert re.fullmatch(rf"strokect-{VERSION}-\d{{12}}", template["metadata"]["name"]) and len(template["metadata"]["name"]) < 63
    assert template["metadata"]["labels"]["bento-version"] == VERSION and template["spec"]["containers"][0]["image"] == image
    assert template["spec"]["volumes"][0]["secret"] == {
        "secretName": "strokect-tokens",
        "items": [{"key": "3", "path": "tokens"}],
    }
    assert f"bento strokect:{VERSION} at https://strokect.example" in done.stdout


@pytest.mark.parametrize(
    "variables, said",
    [
        ({"PROJECT": ""}, "PROJECT: the Google Cloud project"),
        ({"TOKEN_VERSION": ""}, "TOKEN_VERSION: version of the secret strokect-tokens"),
        ({"SERVICE_ACCOUNT": "a\n      privileged: true"}, "SERVICE_ACCOUNT is"),
        ({"BENTO": "missing.bento"}, "missing.bento"),
    ],
)
def test_nothing_is_built_or_sent_when_something_is_missing_or_odd(tmp_path: Path, variables: dict[str, str], said: str) -> None:
    done, calls = deploy(tmp_path, **variables)
    assert done.returncode != 0 and said in done.stderr and calls == []


def test_the_runbook_names_what_there_is() -> None:
    text = RUNBOOK.read_text()
    script = SCRIPT.read_text()
    for name in re.findall(r"\b(?:PROJECT|REGION|REPOSITORY|SERVICE_ACCOUNT|TOKEN_VERSION|AUDIT_KEY_VERSION)\b", text):
        assert f"${{{name}:?" in script
    known = set(re.findall(r"STROKECT_[A-Z_]+", text)) - {"STROKECT_AUDIT_KEY"}
    assert known <= environment().keys()
