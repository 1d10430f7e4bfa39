"""Findings of studies for tests: made up by formulas of a seed, as large and as odd as wanted, and one that was run."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
from collections.abc import Sequence
from statistics import NormalDist

import torch

from disbud import claims, measures
from disbud.artifacts import Json
from disbud.claims import Verdict
from disbud.data import load
from disbud.methods.catalogue import CATALOGUE
from disbud.study import Seeds, Trial, run
from disbud.study.findings import Cell, Decision, Findings
from disbud.study.record import Record
from disbud.study.running import network

METHODS = ("random-erk", "magnitude", "snip", "grasp", "synflow")
SPARSITIES = (0.9, 0.95, 0.98, 0.99, 0.995)
INTERVENTIONS = (None, "shuffle", "reinit", "permute-values")
LAYERS = tuple(
    ["conv.weight"] + [f"blocks.{i}.conv{j}.weight" for i in range(9) for j in (1, 2)] + ["fc.weight"]
)
EPOCHS = 20
ENVIRONMENT = {
    "torch": "2.13.0", "cpu": "AVX512", "machine": "x86_64", "device": "cpu", "threads": 1, "disbud": "0.1.0",
}  # fmt: skip


def trials(
    methods: Sequence[str] = METHODS,
    sparsities: Sequence[float] = SPARSITIES,
    interventions: Sequence[str | None] = INTERVENTIONS,
    seeds: Sequence[int] = range(5),
    *,
    models: Sequence[str] = ("resnet20",),
    recipe: str = "digits",
    dense: bool = True,
) -> list[Trial]:
    """The grid, and the dense networks of its seeds."""
    found = []
    for model, seed in itertools.product(models, seeds):
        base = Trial(model, "cifar10", recipe, seeds=Seeds.all(seed))
        found += [base] if dense else []
        found += [
            dataclasses.replace(base, method=m, sparsity=s, intervention=i)
            for m, s, i in itertools.product(methods, sparsities, interventions)
        ]
    return found


def record(trial: Trial, *, layers: Sequence[str] = LAYERS) -> Record:
    """What might have come of the trial: accuracy falls with log density, by method; the mask matters less than it."""
    draw = random.Random(repr(trial))
    seed = random.Random(trial.seeds.init).gauss(0, 0.004)
    strength = random.Random(repr(trial.method)).uniform(0.03, 0.09)
    density = 1 - (trial.sparsity or 0.0)
    altered = {None: 0.0, "shuffle": -0.004, "reinit": 0.002}.get(trial.intervention, -0.02)
    accuracy = 0.91 - strength * max(0.0, -math.log10(density) - 0.5) + altered + seed + draw.gauss(0, 0.003)
    accuracy = min(1.0, max(0.1, accuracy))
    loss = -math.log(accuracy) * 1.3
    curve = tuple(
        {
            "epoch": e,
            "train_loss": loss * 0.8 + 2 * math.exp(-e / 4),
            "test_loss": loss + 1.8 * math.exp(-e / 4),
            "test_accuracy": accuracy - (accuracy - 0.1) * math.exp(-e / 4),
        }
        for e in range(1, EPOCHS + 1)
    )
    return Record(
        trial, trial.identity, accuracy, loss, curve,
        ticket=None if trial.sparsity is None else "ab" * 32,
        measures=_measures(trial, density, draw, layers),
        environment=ENVIRONMENT, seconds=40 * draw.uniform(0.8, 1.2), memory=900_000_000,
        finished="2026-01-02T03:04:05+00:00",
    )  # fmt: skip


def _measures(
    trial: Trial, density: float, draw: random.Random, layers: Sequence[str]
) -> dict[str, dict[str, Json]]:
    tilt = random.Random(repr(trial.method)).uniform(-0.8, 0.8)
    sizes = [400 * (1 + i) for i in range(len(layers))]
    kept = [max(1, round(n * density ** (1 + tilt * (i / len(layers) - 0.5)))) for i, n in enumerate(sizes)]
    dense = 41_000_000
    paths = {
        "columns": ["layer", "weights", "kept", "effective"],
        "rows": [[name, n, k, k] for name, n, k in zip(layers, sizes, kept, strict=True)],
        "summary": {
            "log10_paths": 60 + 22 * math.log10(density) + 4 * tilt + draw.gauss(0, 0.3),
            "nodes": round(700 * density ** (0.3 + tilt / 4)),
            "effective_sparsity": 1 - density,
        },
    }
    cost = {
        "columns": ["layer"], "rows": [],
        "summary": {
            "parameters": sum(sizes), "kept": sum(kept), "multiply_adds": dense,
            "multiply_adds_masked": round(dense * density ** (1 + tilt / 5)),
            "multiply_adds_live": round(dense * density**0.4), "ticket_bytes": sum(sizes) // 8,
        },
    }  # fmt: skip
    if trial.sparsity is None:
        return {"cost": cost}
    return {"paths": paths, "cost": cost, "weights": _weights(trial, layers, sizes, kept, draw)}


def _weights(
    trial: Trial, layers: Sequence[str], sizes: Sequence[int], kept: Sequence[int], draw: random.Random
) -> dict[str, Json]:
    cuts = [(i - 0.5) / 64 for i in range(1, 65)]
    rows = []
    for i, (name, total, left) in enumerate(zip(layers, sizes, kept, strict=True)):
        spread = 0.2 / math.sqrt(1 + i)
        away = 0.0 if trial.intervention else spread
        for when, factor in (("start", 1.0), ("trained", 1.4)):
            normal = NormalDist(0, spread * factor * draw.uniform(0.97, 1.03))
            values = [normal.inv_cdf(p) for p in cuts]
            values = sorted(v + (away if v > 0 else -away) for v in values)
            rows.append([name, when, left, total, 0.0, spread, *values])
    columns = ["layer", "when", "kept", "total", "mean", "deviation", *(f"q{i}" for i in range(1, 65))]
    return {"columns": columns, "rows": rows, "summary": {"quantiles": 64}}


def decisions() -> tuple[Decision, ...]:
    """A decision of each kind, with cells that lie where their verdicts say."""
    levels = ("snip at 90 %", "snip at 95 %", "snip at 98 %", "synflow at 90 %", "synflow at 98 %")

    def cell(name: str, verdict: Verdict, at: float, half: float, further: int | None = None) -> Cell:
        interval = f"90 % interval {100 * (at - half):.1f} to {100 * (at + half):.1f}"
        words = f"difference {100 * at:+.1f} points, {interval}"
        return Cell(name, verdict, words, at, at - half, at + half, 0.9, 0.005, seeds=5, further=further)

    return (
        Decision(
            "shuffle", "Shuffling the mask within layers does not matter", Verdict.SUPPORTED,
            "supported in all of 5 cells", "Frankle et al. 2021", "for all",
            tuple(cell(n, Verdict.SUPPORTED, 0.0004 * i, 0.003) for i, n in enumerate(levels)), 0.011,
        ),
        Decision(
            "permute", "Permuting the values of the kept weights does not matter", Verdict.CONTRADICTED,
            "contradicted in 4 of 5 cells", "Frankle et al. 2021", "for all",
            (*(cell(n, Verdict.CONTRADICTED, -0.02 - 0.003 * i, 0.006) for i, n in enumerate(levels[:4])),
             cell(levels[4], Verdict.SUPPORTED, 0.0005, 0.004)), 0.0004,
        ),
        Decision(
            "beats", "SynFlow beats SNIP at 99 %", Verdict.UNDECIDED, "undecided; about 7 seeds more would decide it",
            "Tanaka et al. 2020", "", (cell("99 %", Verdict.UNDECIDED, 0.004, 0.009, 7),), 0.21,
        ),
        Decision(
            "easy", "Pruned networks of 5 epochs tell methods apart", Verdict.UNINFORMATIVE,
            "not even random masks are worse by more than the margin", "", "there is",
            (cell("90 %", Verdict.UNINFORMATIVE, 0.0, 0.002),), None,
        ),
        Decision("imagenet", "It holds on ImageNet", None, "this study has no trials on ImageNet", "Su et al. 2020"),
    )  # fmt: skip


TEXT = 'title = "Sanity checks"\nmodels = ["resnet20"]\n# a comment & <b>markup</b>\n'


def findings(
    records: Sequence[Record], *, decided: Sequence[Decision] | None = None, title: str = "Sanity checks"
) -> Findings:
    """The records as a study of five claims."""
    return Findings(
        title, "Which parts of a ticket matter: its mask, its weights, or how much each layer keeps?", tuple(records),
        decisions() if decided is None else tuple(decided),
        {"models": ["resnet20"], "methods": list(METHODS), "margin": 0.005, "seeds": 5},
        TEXT, "disbud study run sanity.toml",
    )  # fmt: skip


def large() -> Findings:
    """505 trials: 5 methods, 5 sparsities, 4 interventions, 5 seeds, and the dense networks; 3 of them failed."""
    records = [record(trial) for trial in trials()]
    for i in (40, 41, 300):
        records[i] = broken(records[i].trial)
    return findings(records)


def broken(trial: Trial) -> Record:
    """A trial that raised."""
    return Record(
        trial, trial.identity, error="RuntimeError: out of <memory> & more",
        traceback="Traceback (most recent call last):\n  File \"run.py\", line 7\nRuntimeError: out of <memory>",
        environment=ENVIRONMENT, attempts=3,
    )  # fmt: skip


def real() -> Findings:
    """Seven trials that were run: two methods, one sparsity, shuffled or not, and the dense network of one seed."""
    base = Trial("lenet-300-100:width=0.2", "digits", "digits:epochs=2", seeds=Seeds.all(1))
    chosen = [base]
    for method, altered, seed in itertools.product(("snip", "magnitude"), (None, "shuffle"), (1, 2)):
        chosen.append(
            dataclasses.replace(base, method=method, sparsity=0.9, intervention=altered).with_seed(seed)
        )
    records = [_real_record(trial) for trial in chosen]
    pairs = claims.Pairs((1, 2), tuple(
        records[2 + i + 1].accuracy - records[i + 1].accuracy for i in (0, 1)  # type: ignore[operator]
    ))  # fmt: skip
    judged = claims.judge(claims.Same("shuffle", "none"), pairs, margin=claims.Margin(0.01))
    cell = Cell(
        "snip at 90 %", judged.verdict, str(judged), judged.estimate, judged.interval.low, judged.interval.high,
        judged.interval.level, 0.01, seeds=2, further=judged.further,
    )  # fmt: skip
    decision = Decision("shuffle", "Shuffling does not matter", judged.verdict, str(judged), cells=(cell,))
    return findings(records, decided=[decision], title="A study that was run")


def _real_record(trial: Trial) -> Record:
    outcome = run(trial)
    dataset = load(trial.data, seed=trial.seeds.split)
    model = network(trial, dataset)
    example = dataset.example()
    found = {"cost": measures.cost(model, outcome.ticket, example=example)}
    if outcome.ticket is not None:
        found["paths"] = measures.paths(model, outcome.ticket, example=example)
        cuts = [(i - 0.5) / 64 for i in range(1, 65)]
        kept = {
            name: p.detach()[outcome.ticket.masks[name]]
            for name, p in model.named_parameters()
            if name in outcome.ticket.masks
        }
        found["weights"] = measures.Table.of(
            {
                "layer": name, "when": "start", "kept": len(values), "total": outcome.ticket.masks[name].numel(),
                "mean": float(values.mean()), "deviation": float(values.std()),
                **{f"q{i}": float(torch.quantile(values, p)) for i, p in enumerate(cuts, start=1)},
            }
            for name, values in kept.items()
        )  # fmt: skip
    return Record(
        trial, trial.identity, outcome.accuracy, outcome.loss, outcome.curve,
        measures={name: json.loads(json.dumps(table.to_json())) for name, table in found.items()},
        environment=ENVIRONMENT, seconds=outcome.seconds, memory=200_000_000,
    )  # fmt: skip


# Odd studies


def one_trial() -> Findings:
    """A single trial without measures, curve or ticket."""
    trial = Trial("lenet-300-100", "digits", "digits", "snip", 0.9)
    return findings([Record(trial, trial.identity, 0.9, 0.3)], decided=())


def all_failed() -> Findings:
    """Nothing came of it."""
    return findings([broken(trial) for trial in trials(METHODS[:2], (0.9,), (None,), range(2))], decided=())


def many_methods() -> Findings:
    """Thirty methods."""
    names = [name for name in CATALOGUE if name != "random-like"][:30]
    assert len(names) == 30
    return findings(
        [record(t, layers=LAYERS[:3]) for t in trials(names, (0.9, 0.99), (None, "shuffle"), range(2))]
    )


def one_sparsity() -> Findings:
    """One sparsity, so that the axis has no extent, and two settings."""
    chosen = trials(METHODS, (0.98,), (None, "reinit"), range(3), models=("resnet20", "vgg16-bn"))
    return findings([record(t, layers=LAYERS[:4]) for t in chosen], decided=decisions()[:1])


def no_intervals() -> Findings:
    """One seed, so that nothing has an interval; no dense network; a run that diverged; one that left no path."""
    found = [
        record(t, layers=LAYERS[:4])
        for t in trials(METHODS, SPARSITIES, (None, "shuffle"), (0,), dense=False)
    ]
    found[0] = dataclasses.replace(found[0], loss=math.inf, accuracy=0.1, diverged="diverged in epoch 2")
    paths = found[1].measures["paths"]
    cut_off = {**paths, "summary": {**paths["summary"], "log10_paths": None, "nodes": 0}}  # type: ignore[dict-item]
    found[1] = dataclasses.replace(found[1], measures={**found[1].measures, "paths": cut_off})
    open_cell = Cell(
        "98 %", Verdict.UNDECIDED, "no bound yet", 0.004, -math.inf, math.inf, 0.9, 0.005, seeds=1
    )
    silent = Cell("99 %", Verdict.UNDECIDED, "nothing known")
    ratio = Cell("slope", Verdict.SUPPORTED, "rises by 0.3", 0.3, 0.1, 0.5, unit="plain", seeds=5)
    decided = Decision(
        "open", "It is so", Verdict.UNDECIDED, "undecided", "", "there is", (open_cell, silent, ratio)
    )
    return findings(found, decided=[decided])


def long_names() -> Findings:
    """Names and claims that fill a line by themselves, and two environments."""
    methods = [
        f"{name}:aggregate=sum-of-abs,schedule=exponential,granularity=weight,rounds={i + 1}"
        for i, name in enumerate(METHODS)
    ]
    layers = ["encoder.layers_of_the_model.self_attention.output_projection.weight", "w" * 90]
    found = [record(t, layers=layers) for t in trials(methods, (0.9, 0.98), (None, "shuffle"), range(2))]
    found = [
        dataclasses.replace(r, environment={**ENVIRONMENT, "cpu": "AVX2"}) if i % 2 else r
        for i, r in enumerate(found)
    ]
    text = "A claim that goes on " * 8 + "x" * 120
    cells = tuple(dataclasses.replace(c, name=f"{c.name} of {methods[0]}") for c in decisions()[1].cells)
    decided = dataclasses.replace(decisions()[1], name="n" * 80, says=text, cells=cells)
    return findings(found, decided=[decided], title="A title of many words " * 6 + "y" * 120)


ODD = {
    make.__name__: make
    for make in (one_trial, all_failed, many_methods, one_sparsity, no_intervals, long_names)
}


HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<img src=http://example.invalid/a.png onerror=\"document.title='owned'\">",
    "\" onmouseover=\"document.title='owned'",
    "'] + datum.x {{7*7}} <!-- \u2028 \ud800 $x^2$",
)


def hostile() -> Findings:
    """Every text that comes from outside is an attempt at the page."""
    records = []
    for text in HOSTILE:
        methods = [f"snip:include={text.replace(',', '').replace('=', '')}"]
        for trial in trials(methods, (0.9, 0.99), (None, "shuffle"), (0, 1), dense=False):
            records.append(dataclasses.replace(record(trial, layers=HOSTILE), environment={text: text}))
    failed = Trial("lenet-300-100", "digits", "digits")
    records.append(Record(failed, failed.identity, error=HOSTILE[0], traceback=HOSTILE[1]))
    cells = tuple(Cell(text, Verdict.SUPPORTED, text, 0.1, 0.0, 0.2) for text in HOSTILE)
    decision = Decision(HOSTILE[0], HOSTILE[1], Verdict.SUPPORTED, HOSTILE[2], HOSTILE[3], cells=cells)
    specification = {HOSTILE[0]: HOSTILE[1], "more": {HOSTILE[2]: [HOSTILE[3]]}}
    return Findings(
        HOSTILE[0], HOSTILE[1], tuple(records), (decision,), specification, HOSTILE[0], HOSTILE[2]
    )
