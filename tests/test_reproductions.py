"""The reproductions: every size loads and can be judged; what their functions compute, held to other ways of it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy
import pytest
import torch
from scipy import stats

from disbud import DisbudError
from disbud.claims import Verdict
from disbud.reproductions import CATALOGUE, SIZES, reproduction, robust
from disbud.reproductions.depth import densities_fall
from disbud.reproductions.distributions import Kept, distance, kept_weights
from disbud.reproductions.immunity import gaussian_ratio
from disbud.reproductions.labels import labels_hardly_matter
from disbud.reproductions.order import changes_places
from disbud.study import Frame, InProcess, Record, Seeds, Study, Trial
from disbud.study.deciding import Setting
from disbud.study.specification.forms import FunctionForm
from disbud.study.trial_measures import QUANTILES

NO_FORM = FunctionForm(kind="function", name="1", says="x", function="x:y")
EMPTY = Setting(Frame((), {}))


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("size", SIZES)
def test_every_size_of_every_paper_is_a_study_whose_claims_can_be_judged(name: str, size: str) -> None:
    study = reproduction(name, size=size)  # checks names, and that each claim finds its trials
    assert study.form.claim
    assert study.trials()
    assert study.command.startswith(f"disbud reproduce {name}")
    tested = [claim for claim in study.form.claim if claim.kind != "untested"]
    assert tested
    assert len({claim.name for claim in study.form.claim}) == len(study.form.claim)


def test_other_data_come_with_their_recipe_and_say_so() -> None:
    study = reproduction("immunity", data="cifar100", model="resnet32", seeds=3)
    assert {trial.data for trial in study.trials()} == {"cifar100"}
    assert {trial.recipe for trial in study.trials()} == {"frankle2021"}
    assert len({trial.seeds for trial in study.trials()}) == 3 + 2
    assert study.command == "disbud reproduce immunity --data cifar100 --model resnet32"


def test_unknown_names_suggest_known_ones() -> None:
    with pytest.raises(DisbudError, match="did you mean 'immunity'"):
        reproduction("imunity")
    with pytest.raises(DisbudError, match="did you mean 'quick'"):
        reproduction("immunity", size="quik")


# Labels


def test_what_random_labels_leave_of_a_mask_is_counted_beyond_chance() -> None:
    """Held to scores, topk and simulated random masks: on digits about seven tenths are left, so the claim fails."""
    import disbud

    seeds = range(4)
    place = Trial("lenet-300-100", "digits", "digits", "snip", 0.9)
    setting = Setting(Frame((), {Seeds.all(i): i for i in seeds}))
    found = labels_hardly_matter(NO_FORM, setting, [place]).results  # type: ignore[attr-defined]
    shares = []
    for seed in seeds:
        dataset = disbud.data.load("digits", seed=seed)
        model = disbud.models.build("lenet-300-100", classes=10, input_shape=(1, 8, 8), seed=seed)
        first = disbud.prune(model, "snip", sparsity=0.9, batches=dataset.batches(seed=seed)).masks

        def shared(batches: object, model=model, first=first, seed=seed) -> float:  # type: ignore[no-untyped-def]
            """The intersection over union with the best of these batches, less that with weights drawn at random."""
            scores = disbud.scores(model, "snip", batches=batches)  # type: ignore[arg-type]
            unit = torch.Generator().manual_seed(seed)
            drawn = {name: torch.rand(score.shape, generator=unit) for name, score in scores.items()}
            ious = []
            for ranked in (scores, drawn):
                both = either = 0
                for name, mask in first.items():
                    best = torch.zeros(mask.numel(), dtype=torch.bool)
                    best[ranked[name].flatten().topk(int(mask.sum())).indices] = True
                    both += int((best & mask.flatten()).sum())
                    either += int((best | mask.flatten()).sum())
                ious.append(both / either)
            return ious[0] - ious[1]

        other = dataset.batches(seed=seed + 1_000_003)
        random = disbud.interventions.on_data(other, "random-labels", seed=seed)
        shares.append(shared(random) / shared(other))
    decided = found["at 90.00%, as much as two batches"]
    middle = 0.9 + (decided.interval.low + decided.interval.high) / 2
    assert middle == pytest.approx(sum(shares) / len(shares), abs=0.02)
    assert decided.verdict is Verdict.CONTRADICTED
    assert found["at 90.00%, more than chance"].verdict is Verdict.SUPPORTED


# Distributions


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[Trial, Record]:
    study = Study(
        name="w", data="digits", model="lenet-300-100", recipe="digits:epochs=1", methods="magnitude", sparsities=0.7,
        interventions=["none", "shuffle"], seeds=1, measures=["weights", "paths"], controls=False,
    )  # fmt: skip
    findings = study.run(store=tmp_path_factory.mktemp("store"), engine=InProcess())
    return {record.trial: record for record in findings.records}


def trial(intervention: str | None) -> Trial:
    return Trial("lenet-300-100", "digits", "digits:epochs=1", "magnitude", 0.7, intervention)


def test_distances_from_quantiles_are_those_of_the_weights(records: dict[Trial, Record]) -> None:
    import disbud

    dataset = disbud.data.load("digits")
    model = disbud.models.build("lenet-300-100", classes=10, input_shape=(1, 8, 8), seed=0)
    plain = disbud.prune(model, "magnitude", sparsity=0.7, example=dataset.example(), seed=0)
    shuffled = disbud.interventions.on_mask(plain, "shuffle", seed=0)
    one, other = kept_weights(records[trial(None)], "start"), kept_weights(records[trial("shuffle")], "start")
    for name, weight in model.state_dict().items():
        if name not in plain.masks or weight.numel() < 10_000:
            continue
        values = [weight[ticket.masks[name]].numpy() for ticket in (plain, shuffled)]
        assert one[name].kept == len(values[0])
        assert one[name].deviation == pytest.approx(values[0].std(), rel=1e-5)
        exact = stats.wasserstein_distance(*values)
        assert distance(one[name], other[name], zeros="out") == pytest.approx(exact, rel=0.02)
        filled = [(weight * ticket.masks[name]).flatten().numpy() for ticket in (plain, shuffled)]
        assert distance(one[name], other[name], zeros="in") == pytest.approx(
            stats.wasserstein_distance(*filled), rel=0.02
        )


def test_a_layer_is_at_no_distance_from_itself_and_shifts_by_what_it_is_shifted() -> None:
    values = numpy.sort(numpy.random.default_rng(0).normal(size=QUANTILES))
    one, moved = Kept(64, 640, 1.0, values), Kept(64, 640, 1.0, values + 0.25)
    assert distance(one, one, zeros="out") == distance(one, one, zeros="in") == 0.0
    assert distance(one, moved, zeros="out") == pytest.approx(0.25)
    assert distance(one, moved, zeros="in") <= 0.025 + 1e-12


@pytest.mark.parametrize("density", [0.5, 0.223, 0.1, 0.02])
def test_cutting_a_gaussian_multiplies_its_deviation_as_the_closed_form_says(density: float) -> None:
    draw = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept = draw[draw.abs() >= draw.abs().quantile(1 - density)]
    assert gaussian_ratio(density) == pytest.approx(float(kept.std()), rel=0.01)
    if density == 0.223:
        assert gaussian_ratio(density) == pytest.approx(1.754, abs=0.001)


# Depth


def test_densities_that_fall_with_depth_are_told_from_those_that_rise() -> None:
    def setting(densities: list[float]) -> tuple[Setting, list[Trial]]:
        variant = Trial("resnet20", "digits", "digits", "snip", 0.9)
        rows = [[int(1000 * d), 1000] for d in densities]
        table = {"paths": {"columns": ["kept", "weights"], "rows": rows, "summary": {}}}
        found = []
        for i in range(4):
            bent = [list(row) for row in rows]
            bent[2][0] += 110 * i  # seeds differ a little
            measures = {"paths": {**table["paths"], "rows": bent}}
            found.append(Record(variant.with_seed(i), str(i), accuracy=0.9, measures=measures))
        return Setting(Frame(tuple(found), {Seeds.all(i): i for i in range(4)})), [variant]

    falls = [0.9, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1, 0.99]  # the last layer does not count
    rises = [*reversed(falls[:-1]), 0.01]
    assert densities_fall(NO_FORM, *setting(falls)).verdict is Verdict.SUPPORTED
    assert densities_fall(NO_FORM, *setting(rises)).verdict is Verdict.CONTRADICTED


# Signals in random networks


@pytest.mark.slow
# Places


@pytest.mark.parametrize("swaps", [True, False])
def test_methods_change_places_at_equal_effective_sparsity_or_do_not(swaps: bool) -> None:
    """Accuracy is 1 - .1 x for both, x the orders of magnitude of what is effective; "snip" wastes half of its weights.

    Asked alike, SynFlow is ahead by .1 log10(2); by what is effective they are equal, and a bonus decides who leads.
    """
    base = Trial("lenet-300-100", "digits", "digits")
    bonus = 0.01 if swaps else -0.01
    found = []
    for method, waste, extra in (("snip", 0.5, bonus), ("synflow", 1.0, 0.0)):
        for sparsity in (0.9, 0.98, 0.995):
            for seed in range(6):
                density = (1 - sparsity) * waste
                accuracy = 1 + 0.1 * math.log10(density) + extra + 1e-4 * math.sin(7 * seed + len(method))
                trial = Trial(base.model, base.data, base.recipe, method, sparsity, seeds=Seeds.all(seed))
                measures = {
                    "paths": {"columns": [], "rows": [], "summary": {"effective_sparsity": 1 - density}}
                }
                found.append(Record(trial, f"{method}{sparsity}{seed}", accuracy=accuracy, measures=measures))
    setting = Setting(Frame(tuple(found), {Seeds.all(i): i for i in range(6)}), given=0.002)
    decided = changes_places(NO_FORM, setting, list(setting.frame.variants))
    assert decided.verdict is (Verdict.SUPPORTED if swaps else Verdict.CONTRADICTED)
    cells = decided.results  # type: ignore[attr-defined]
    assert list(cells) == ["snip before synflow, then after", "synflow before snip, then after"]
    at_equal = cells["synflow before snip, then after"].results["effective"]
    assert (at_equal.interval.low + at_equal.interval.high) / 2 == pytest.approx(bonus, abs=3e-4)
    with pytest.raises(DisbudError, match="from 99% on"):
        changes_places(NO_FORM, setting, [v for v in setting.frame.variants if (v.sparsity or 0) < 0.99])


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        (robust.flat_on_the_edge, Verdict.SUPPORTED),
        (robust.layers_empty_off_the_edge, Verdict.SUPPORTED),
        (robust.rescaling_restores_sensitivity, Verdict.CONTRADICTED),  # a mask that follows the signals
        (robust.magnitude_empties_the_widest, Verdict.SUPPORTED),
    ],
)
def test_claims_about_signals_come_out_as_theory_and_measurement_have_it(claim, verdict: Verdict) -> None:  # type: ignore[no-untyped-def]
    assert claim(NO_FORM, EMPTY, []).verdict is verdict


def test_log_chi_is_zero_on_the_edge_and_has_the_phase_s_sign_off_it() -> None:
    assert robust._log_chi(1.0) == pytest.approx(0.0, abs=1e-6)
    assert robust._log_chi(robust.PHASES["ordered"]) < -0.2
    assert robust._log_chi(robust.PHASES["chaotic"]) > 0.2
    assert math.isfinite(robust._critical(1.0, 0))


def test_the_study_files_lie_in_the_package() -> None:
    folder = Path(robust.__file__).parent
    assert {path.stem for path in folder.glob("*.toml")} == set(CATALOGUE)
