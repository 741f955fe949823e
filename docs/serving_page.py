"""docs/results/serving.md and the README's table of it, from what `benchmarks.serve`, `.release` and `.service` wrote."""

from typing import Any


def serving_table(bench: dict[str, Any]) -> str:
    """Each target beside what was measured."""
    settings = bench["settings"]
    lines = [
        f"{settings['folds']} folds × {settings['views']} views at {settings['size']} px on {bench['cores']} cores "
        f'({bench["cpu"]}, load {bench["load_before"]:g} before), T = Monte Carlo dropout samples; "eager" is the same ensemble '
        "in a warm torch loop. The engine only: no decoding, no pixel checks, no gate.",
        "",
        "| | target | best | median | |",
        "|---|---|---|---|---|",
    ]
    for row in bench["targets"]:
        mark = "met" if row["met"] else "**missed**"
        lines.append(f"| {row['name']} | {row['target']} | {row['min']:g} | {row['median']:g} | {mark} |")
    limits = [(name, result["ratios"]["eager / arithmetic floor"]) for name, result in bench["backbones"].items()]
    lines += [f"| {name}: eager / arithmetic floor | | {limit['min']:g} | {limit['median']:g} | |" for name, limit in limits]
    lines += [
        "",
        "The arithmetic floor is the time of a matrix product of as many operations, in 32 bits. No fp32 engine can be faster "
        "than eager by more than the last rows at T = 1, or by T times as much at T samples. Where a missed target lies within "
        "that limit, the rest of the way is depthwise convolutions, activations and squeeze-excitation, which a matrix product "
        "does not have. Logits of ours and eager differ by rounding, at most by what the tables below say; the parity tests hold "
        "1e-4 on their networks.",
    ]
    return "\n".join(lines)


def serving_page(bench: dict[str, Any], release: dict[str, Any], service: dict[str, Any]) -> str:
    """The whole page; `release` and `service` are what `python -m benchmarks.release` and `.service` wrote."""
    versions = ", ".join(f"{name} {version}" for name, version in bench["versions"].items())
    lines = [
        "# Speed of the engine",
        "",
        f"`{bench['command']}`, {bench['date']}, {bench['cpu']}, {bench['cores']} cores; {versions}.",
        "Rivals take turns in one run; ratios count, times are those of this machine.",
        "Filled by `make readme` from `serve.json`, `release.json` and `service.json` in `docs/results/`.",
        "",
        serving_table(bench),
        "",
    ]
    for name, result in bench["backbones"].items():
        lines += [f"## {name}", "", "| | value |", "|---|---|"]
        lines += [f"| {key.replace('_', ' ')} | {_text(value)} |" for key, value in result.items() if key != "ratios"]
        lines += [""]
    lines += ["## A fresh process", "", "| | " + " | ".join(bench["fresh_process"]) + " |"]
    lines += ["|---" * (len(bench["fresh_process"]) + 1) + "|"]
    for key in next(iter(bench["fresh_process"].values())):
        lines.append(
            f"| {key.replace('_', ' ')} | " + " | ".join(_text(run[key]) for run in bench["fresh_process"].values()) + " |"
        )
    if run := bench["soak"]:
        lines += ["", f"## {run['answers']} answers of one process", "", "| | value |", "|---|---|"]
        lines += [f"| {key.replace('_', ' ')} | {_text(value)} |" for key, value in run.items()]
    lines += ["", "## The whole answer of a release", ""]
    lines += [
        "Decoding, pixel checks, gate, ensemble, dropout samples and policy, without HTTP; the model is the phantom's small one.",
        "",
    ]
    lines += ["| | value |", "|---|---|", *(f"| {key.replace('_', ' ')} | {_text(value)} |" for key, value in release.items())]
    return "\n".join([*lines, "", over_http(service)]) + "\n"


def over_http(service: dict[str, Any]) -> str:
    """Latency, throughput and refusals under load; `service` is what `python -m benchmarks.service` wrote."""
    settings = service["settings"]
    lines = [
        "## Over HTTP",
        "",
        f"`{service['command']}`, {service['date']}, {service['cpu']}, {service['cores']} cores, load "
        f"{service['load_before']:g} before; {settings['requests']} requests each, {settings['folds']} folds × "
        f"{settings['views']} views, 20 dropout samples. Clients and service share the cores, and each client waits for its "
        "answer before it sends the next request. Refused: answered 429, not among the latencies. /livez is asked meanwhile.",
        "",
        "| network | clients | p50 ms | p95 ms | p99 ms | answers/s | refused | refusal, p95 ms | /livez, p95 ms | peak MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, network in service["networks"].items():
        for clients, row in network["clients"].items():
            latency, refusal = row["latency_ms"] or {}, row["refusal_ms"] or {}
            cells = [
                *(latency.get(level) for level in ("p50", "p95", "p99")),
                row["answers_per_s"],
                f"{row['share_refused']:.0%}",
            ]
            cells += [refusal.get("p95"), row["livez_ms"]["p95"], row["peak_mb"]]
            lines.append(f"| {name} | {clients} | " + " | ".join("–" if cell is None else str(cell) for cell in cells) + " |")
    ready = ", ".join(f"{name} {network['ready_s']:g} s" for name, network in service["networks"].items())
    lines += ["", f"From the start of the process to ready: {ready}. Peak: all processes together, shared pages counted once."]
    return "\n".join(lines)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
