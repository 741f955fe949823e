"""What the documents for operators say is what there is: settings, codes, alerts, tests."""

import re
from pathlib import Path

import yaml

from strokect.http import CODES
from strokect.series import LEFT_OUT, UNRECOGNISED
from strokect.settings import settings_table

ROOT = Path(__file__).parents[1]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
RAISED = re.compile(r'(?:ImageError|HttpError|Unreadable)\(\s*(?:\d+,\s*)?"([a-z_]+)"')


def test_the_settings_are_those_of_the_service() -> None:
    block = re.search(r"<!-- settings -->\n(.*?)<!-- /settings -->", OPERATIONS, re.DOTALL)
    assert block and block[1] == settings_table(), "put what strokect.settings.settings_table() returns between the markers"


def test_every_error_code_is_explained() -> None:
    sources = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "strokect").glob("*.py"))]
    codes = {code for source in sources for code in RAISED.findall(source)} | {code for code, _ in CODES.values()}
    codes |= {*LEFT_OUT, UNRECOGNISED[0]}
    assert len(codes) > 30
    assert {code for code in codes if f"`{code}`" not in OPERATIONS} == set()


def test_every_alert_has_its_answer_and_every_metric_exists() -> None:
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        assert f"`{rule['alert']}`" in OPERATIONS
    names = re.findall(r'"(strokect_[a-z_]+)"', (ROOT / "strokect" / "monitoring.py").read_text(encoding="utf-8"))
    for name in re.findall(r"`(strokect_[a-z_]+)`", OPERATIONS):
        assert name.removesuffix("_total") in names


def test_every_test_that_a_defence_names_exists() -> None:
    named = re.findall(r"`(tests/test_\w+\.py)::(test_\w+)`", SECURITY)
    assert len(named) > 25
    for path, name in named:
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), f"{path}::{name}"


def test_every_row_of_the_threat_table_has_a_test() -> None:
    table = SECURITY.split("## What is defended")[1].split("## What is not defended")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15 and all("::test_" in row for row in rows)


def test_paths_and_links_lead_somewhere() -> None:
    for name in ("docs/operations.md", "SECURITY.md", "deploy/cloudrun/runbook.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            assert ((ROOT / name).parent / target).exists(), f"{name}: {target}"
        for path in re.findall(r"`((?:deploy|docs|tests|examples)/[\w./-]+)`", text):
            assert (ROOT / path).exists(), f"{name}: {path}"
