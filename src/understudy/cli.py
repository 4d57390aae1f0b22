"""The `understudy` command: the composition root, the only place that names concrete adapters."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from understudy import __version__
from understudy.commands import fleet, serving, voice
from understudy.commands.console import Sentence, say
from understudy.core.errors import UnderstudyError
from understudy.lab.commands import evaluate, train
from understudy.lab.export_commands import export, quantize
from understudy.sim.command import simulate

BENCHES = (
    *("engine", "edge", "browser", "simulate", "connect", "move", "fleet", "crash", "freeze"),
    *("storm", "region", "soak", "overload", "far", "lab", "listen"),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="understudy")
def cli() -> None:
    """Real-time voices that never drop the line."""


@cli.command()
@click.argument("name", type=click.Choice(BENCHES))
@click.argument("model", required=False, type=click.Path(path_type=Path, exists=True))
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@click.option("--quick", is_flag=True, help="A shorter run; the figures are rougher.")
@click.option("--minutes", type=click.FloatRange(0.1, 24 * 60), help="Of `storm` and `soak`.")
@click.option(
    "--audio",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of recorded speech; else $UNDERSTUDY_AUDIO, ../shared/audio, or synthesis.",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path, exists=True),
    help="listen: another model beside MODEL.",
)
@click.option(
    "--plot",
    "plot_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.svg",
    help="listen: draw how its times are spread.",
)
def bench(
    name: str,
    model: Path | None,
    as_json: bool,
    quick: bool,
    minutes: float | None,
    audio: Path | None,
    against: Path | None,
    plot_file: Path | None,
) -> None:
    """Print the figures that docs/benchmarks.md records.

    `listen` takes a MODEL, a checkpoint or an exported file; without one both nets are timed
    with random weights.
    """
    import importlib

    from understudy.bench.machine import find_audio, stamp

    if name != "listen" and any((model, against, plot_file)):
        raise Sentence(
            f"{name} takes no MODEL, --against or --plot; `understudy bench listen` does"
        )
    if against is not None and model is None:
        raise Sentence("--against needs a MODEL to set it against")
    if minutes is not None and name not in ("storm", "soak"):
        raise Sentence(f"the length of {name} is fixed; --minutes is for storm and soak")
    module = importlib.import_module(f"understudy.bench.{name}")
    chosen: dict[str, Any] = {"model": model, "against": against} if name == "listen" else {}
    if minutes is not None:
        chosen["minutes"] = minutes
    result = module.run(find_audio(audio), quick=quick, progress=say, **chosen)
    result = {**stamp(name), **result}
    if plot_file is not None:
        from understudy.bench.histogram import svg

        title = f"Audio to labels, one thread, {result['cpu']}"
        plot_file.write_text(svg(module.plotted(result), title), encoding="utf-8")
    click.echo(json.dumps(result, indent=2) if as_json else module.table(result))


for command in (
    serving.up,
    serving.edge,
    serving.controller,
    serving.join,
    voice.voices,
    voice.convert,
    voice.stream,
    voice.talk,
    fleet.status,
    fleet.deploy,
    fleet.rollback,
    fleet.drain,
    fleet.usage,
    fleet.token,
    fleet.chaos,
    simulate,
    train,
    evaluate,
    export,
    quantize,
):
    cli.add_command(command)


def main() -> None:
    """The console script. Every refusal is one sentence on standard error, and status 1."""
    try:
        cli(standalone_mode=False)
    except UnderstudyError as error:
        Sentence(error.message).show()
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
