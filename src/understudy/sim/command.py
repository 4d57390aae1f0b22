"""`understudy simulate`: a trace through the production policy, in virtual time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from understudy.core.policy_view import Rules
from understudy.sim import frontier as plot
from understudy.sim import report, traffic
from understudy.sim.baselines import POLICIES
from understudy.sim.record import Setup
from understudy.sim.world import simulate as run


@click.command()
@click.argument("trace", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@click.option(
    "--events",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for workers.csv and placements.csv.",
)
@click.option(
    "--policy",
    type=click.Choice(sorted(POLICIES)),
    default="understudy",
    show_default=True,
    help="Ours, or one modelled on scale to zero, Agones, or a Kubernetes HPA.",
)
@click.option(
    "--patience",
    type=click.FloatRange(0.01, 1e6),
    default=Rules().patience,
    show_default=True,
    help="GPU-seconds that sparing a user one second of the understudy is worth.",
)
@click.option("--frontier", is_flag=True, help="Several values of --patience, and the baselines.")
@click.option(
    "--boot",
    type=click.FloatRange(0.1, 3600),
    default=Setup().boot_s,
    show_default=True,
    metavar="S",
    help="Seconds from a worker's start to ready.",
)
@click.option(
    "--slots",
    type=click.IntRange(1, 64),
    default=Setup().slots,
    show_default=True,
    help="Sessions a worker holds.",
)
@click.option("--max-nodes", type=click.IntRange(1), help="GPU workers at once, at most.")
@click.option("--budget", type=click.FloatRange(0.01), metavar="$/h", help="GPU dollars an hour.")
@click.option(
    "--rtt",
    type=click.FloatRange(0),
    default=Setup().rtt_s,
    show_default=True,
    metavar="S",
    help="Round trip between regions.",
)
@click.option(
    "--far-rtt",
    type=click.FloatRange(0),
    default=Rules().far_rtt_s,
    show_default=True,
    metavar="S",
    help="Up to this round trip, a session may start on a far GPU; 0: never.",
)
@click.option(
    "--plot",
    "plot_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="SVG file for the frontier (implies --frontier).",
)
def simulate(
    trace: Path,
    as_json: bool,
    events: Path | None,
    policy: str,
    patience: float,
    frontier: bool,
    boot: float,
    slots: int,
    max_nodes: int | None,
    budget: float | None,
    rtt: float,
    far_rtt: float,
    plot_file: Path | None,
) -> None:
    """Run TRACE (t_s,user,voice,region,duration_s as CSV, gzip or not) in virtual time."""
    visits = traffic.read(trace)
    setup = Setup(boot_s=boot, slots=slots, rtt_s=rtt, max_nodes=max_nodes, budget_per_h=budget)
    rules = Rules(patience=patience, far_rtt_s=far_rtt, max_nodes=max_nodes, budget_per_h=budget)
    if frontier or plot_file:
        if events:
            raise click.UsageError("--events is of one run; it does not go with --frontier.")
        rows = plot.frontier(visits, rules, setup, lambda words: click.echo(words, err=True))
        if plot_file:
            plot_file.write_text(plot.svg(rows, trace.name), encoding="utf-8")
        click.echo(json.dumps(rows, indent=2) if as_json else plot.table(rows))
        return
    begun = perf_counter()
    record = run(visits, POLICIES[policy](replace(rules, patience=patience)), setup)
    wall_s = perf_counter() - begun
    result = {"trace": trace.name, "policy": policy} | report.figures(record, setup)
    result["wall_s"] = round(wall_s, 2)
    if events:
        report.write_events(record, events)
    click.echo(json.dumps(result, indent=2) if as_json else _lines(result))


def _lines(result: dict[str, Any]) -> str:
    wait, moves = result["wait_s"], result["moves"]
    ratio = "-" if result["ratio"] is None else f"{result['ratio']:.4f}"
    return "\n".join(
        [
            f"{result['trace']}, policy {result['policy']}: {result['sessions']} sessions",
            f"  bill / bound      {ratio}   ({result['gpu_s']:.0f} of {result['bound_gpu_s']:.0f}"
            f" GPU-s, {result['boots']} boots)",
            f"  on the understudy {result['understudy_share']:.4%} of minutes",
            f"  on a far GPU      {result['far_share']:.4%} of minutes",
            f"  silent            {result['silent_s']:.1f} s",
            f"  wait for the lead p50 {wait['p50']:g} s, p95 {wait['p95']:g} s,"
            f" p99 {wait['p99']:g} s, max {wait['max']:g} s",
            f"  moves             {result['moves_per_session_hour']:.2f} a session-hour"
            f" ({moves['lead_to_lead']} from lead to lead,"
            f" {moves['understudy_to_lead']} from the understudy)",
            f"  cost              ${result['gpu_usd']:.2f} of GPUs,"
            f" ${result['understudy_cpu_usd']:.2f} of CPUs for the understudies",
            f"  simulated in      {result['wall_s']:.1f} s",
        ]
    )
