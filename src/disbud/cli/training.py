"""`disbud train`: train a model on a data set, on a ticket where one is given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from disbud.cli import show
from disbud.cli.options import COMMON, Common, Model, Weights, WorkFailed, check_writable
from disbud.cli.progress import Progress
from disbud.training.recipes import RECIPES, parse_recipe, recipe_for

if TYPE_CHECKING:
    from disbud.ticket import Ticket
    from disbud.training.result import Progress as Event

RECIPE_HELP = f"One of {', '.join(RECIPES)}, with settings as in digits:epochs=10,lr=0.05"


def train(
    model: Model,
    /,
    *,
    data: Annotated[str, Parameter(help="A data set that `disbud data` lists.")] = "digits",
    ticket: Annotated[Path | None, Parameter(help="Keep the model on the ticket in this file.")] = None,
    recipe: Annotated[str | None, Parameter(help=f"{RECIPE_HELP}; else the data set's own.")] = None,
    seed: Annotated[
        int | None,
        Parameter(help="Draws weights, order and augmentation; else the seed of the ticket, or 0."),
    ] = None,
    weights: Weights = None,
    checkpoint: Annotated[
        Path | None,
        Parameter(help="Keep the run in this file after each epoch, and go on from it if it is there."),
    ] = None,
    out: Annotated[Path | None, Parameter(help="Write the trained weights here (safetensors).")] = None,
    common: Common = COMMON,
) -> int:
    """Train a model, dense or on a ticket, and report its test accuracy."""
    chosen = parse_recipe(recipe) if recipe is not None else None
    check_writable("--out", out)
    check_writable("--checkpoint", checkpoint)
    from disbud.cli.networks import load_data, network, use_threads
    from disbud.training import train as run

    use_threads(common.threads)
    kept = _load(ticket)
    if seed is None:
        seed = (kept.origin.model_seed() if kept is not None else None) or 0
    dataset = load_data(data)
    built = network(model, dataset=dataset).build(seed, weights)
    if kept is not None:
        kept.check(built)
        _note_other_start(kept, seed, weights)
    with Progress() as progress:
        result = run(
            built,
            dataset,
            ticket=kept,
            recipe=chosen or recipe_for(dataset.name),
            seed=seed,
            checkpoint=checkpoint,
            progress=lambda event: progress.update(event.fraction, describe(event)),
        )
    if common.json:
        files = {"ticket": ticket, "weights": weights, "out": None if result.diverged else out}
        named = {key: None if path is None else str(path) for key, path in files.items()}
        show.write_json({"model": model, **named, **result.to_json()})
    else:
        show.write(str(result))
    if result.diverged:
        raise WorkFailed(f"the run {result.diverged}; a smaller lr in --recipe may help")
    if out is not None:
        from disbud.cli.weights import save_weights

        save_weights(out, built)
        show.say(f"wrote {out}")
    return 0


def describe(event: Event) -> str:
    """Where a run is, in words."""
    accuracy = "" if event.accuracy is None else f", accuracy {event.accuracy:.1%}"
    return f"epoch {event.epoch} of {event.epochs}, loss {event.loss:.3f}{accuracy}"


def _load(path: Path | None) -> Ticket | None:
    from disbud.ticket import Ticket

    return None if path is None else Ticket.load(path)


def _note_other_start(ticket: Ticket, seed: int, weights: Path | None) -> None:
    made_at = ticket.origin.model_seed()
    if ticket.start is None and weights is None and made_at is not None and made_at != seed:
        show.note(
            f"the ticket was made at seed {made_at}; with --seed {seed} it meets other starting weights"
        )
