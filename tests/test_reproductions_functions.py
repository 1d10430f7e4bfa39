"""What the reproductions' functions compute, held to other ways of it; and that their claims can fail."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy
import pytest
import torch
from scipy import stats
from torch.func import functional_call, grad, vmap
from torch.nn import functional

import disbud
from disbud import DisbudError
from disbud.claims import Beats, Decided, Judgement, Margin, Pairs, Verdict, for_all, judge, there_is
from disbud.reproductions import collapse, order, robust
from disbud.reproductions.depth import densities_fall
from disbud.reproductions.distributions import Kept, distance, kept_weights
from disbud.reproductions.immunity import as_a_cut_gaussian, changes_minimally, gaussian_ratio
from disbud.reproductions.labels import labels_hardly_matter
from disbud.reproductions.order import changes_places
from disbud.reproductions.reading import NETWORKS
from disbud.study import Frame, InProcess, Record, Seeds, Study, Trial
from disbud.study.deciding import Setting
from disbud.study.deciding.bounds import Waiting
from disbud.study.specification.forms import FunctionForm
from disbud.study.trial_measures import QUANTILES

NO_FORM = FunctionForm(kind="function", name="1", says="x", function="x:y")
EMPTY = Setting(Frame((), {}))
ON_DIGITS = Trial("lenet-300-100", "digits", "digits", "snip", 0.9)


# Labels


def test_what_random_labels_leave_of_a_mask_is_counted_beyond_chance() -> None:
    """Held to scores, topk and simulated random masks: on digits about seven tenths are left, so the claim fails."""
    found = labels_hardly_matter(NO_FORM, EMPTY, [ON_DIGITS]).results  # type: ignore[attr-defined]
    shares = []
    for seed in range(NETWORKS):
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


def test_the_cells_of_two_networks_do_not_take_each_other_s_place(records: dict[Trial, Record]) -> None:
    """With the trials of another network beside them there are twice as many cells, each named by its network."""
    alone = list(records.values())
    both = [*alone, *(replace(record, trial=replace(record.trial, model="lenet-5")) for record in alone)]
    for claim in (changes_minimally, as_a_cut_gaussian):
        counts = []
        for given in (alone, both):
            frame = Frame(tuple(given), {Seeds(): 0})
            cells = claim(NO_FORM, Setting(frame), frame.variants).results  # type: ignore[attr-defined]
            counts.append(len(cells))
        assert counts[1] == 2 * counts[0] > 0
        assert {name.split()[0] for name in cells} == {"lenet-300-100", "lenet-5"}


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
        for sparsity in (0.9, 0.98, 0.99, 0.998):
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
    assert list(cells) == ["at 99 %", "at 99.8 %"]
    for cell in cells.values():
        assert cell.verdict is decided.verdict
        if swaps:  # as asked, SynFlow is well ahead
            at_equal, which = cell.remarks[-2:]
            assert at_equal == "weakest of 2: at equal effective sparsity"
            assert which == "strongest of 2: synflow before snip, then after"
            assert (cell.interval.low + cell.interval.high) / 2 == pytest.approx(bonus, abs=3e-4)
    guesses = replace(setting.frame, chance={base.data: 2.0})
    assert (
        changes_places(NO_FORM, Setting(guesses, given=0.002), guesses.variants).verdict
        is Verdict.UNINFORMATIVE
    )
    with pytest.raises(DisbudError, match="from 99% on"):
        changes_places(NO_FORM, setting, [v for v in setting.frame.variants if (v.sparsity or 0) < 0.99])


def test_between_tickets_ten_times_apart_nothing_is_read_off() -> None:
    near, far = [(1.0, 0.8), (1.7, 0.6), (2.0, 0.3)], [(1.0, 0.8), (2.5, 0.1)]
    assert order._read_off(near, 1.7) == 0.6
    assert order._read_off(near, 1.35) == pytest.approx(0.7)
    assert order._read_off(near, 2.0 + 1e-12) == 0.3
    assert [order._read_off(near, at) for at in (0.9, 2.1)] == [None, None]
    assert order._read_off(far, 1.0) == 0.8
    assert order._read_off(far, 2.0) is None
    assert order._read_off([], 2.0) is None


def test_towards_a_ticket_that_collapsed_nothing_is_read_off() -> None:
    base = Trial("lenet-300-100", "digits", "digits", "snip", 0.9)
    curve = [base, replace(base, sparsity=0.95), replace(base, sparsity=0.99)]

    def found(*effective: float) -> dict[int, float]:
        records = [
            Record(replace(variant, seeds=Seeds.all(0)), str(variant), accuracy=accuracy, measures=measures)
            for variant, accuracy, sparsity in zip(curve, (0.8, 0.6, 0.1), effective, strict=True)
            if (measures := {"paths": {"summary": {"effective_sparsity": sparsity}}})
        ]
        return order._at_effective(Setting(Frame(tuple(records), {Seeds.all(0): 0})), curve, 0.99)

    assert found(0.9, 0.95, 0.99) == {0: 0.1}
    assert found(0.9, 0.95, 0.995)[0] == pytest.approx(0.6 - 0.5 * math.log10(0.05 / 0.01), abs=1e-6)
    assert found(0.9, 0.95, 1.0) == {}


def test_cells_within_cells_hang_on_the_weakest_or_on_the_strongest() -> None:
    def ahead(by: float) -> Decided:
        pairs = Pairs(tuple(range(6)), tuple(by + 1e-3 * math.sin(seed) for seed in range(6)))
        return judge(Beats("a", "b"), pairs, margin=Margin(0.005))

    cells = {"far": ahead(0.05), "near": ahead(0.01), "behind": ahead(-0.02)}
    every, anyone = order._deciding(for_all(cells)), order._deciding(there_is(cells))
    assert (every.verdict, anyone.verdict) == (Verdict.CONTRADICTED, Verdict.SUPPORTED)
    assert isinstance(every, Judgement)
    assert isinstance(anyone, Judgement)
    assert every.estimate == pytest.approx(-0.02, abs=1e-3)
    assert anyone.estimate == pytest.approx(0.05, abs=1e-3)
    assert anyone.p_supported == pytest.approx(3 * cells["far"].p_supported)  # after Holm
    open_ = {"far": ahead(0.05), "failed": Waiting("0 seeds have both", 3)}
    assert order._deciding(for_all(open_)).verdict is Verdict.UNDECIDED
    assert order._deciding(there_is(open_)).verdict is Verdict.SUPPORTED


# Collapse


def test_the_layer_that_empties_first_is_the_one_whose_last_weight_goes_first() -> None:
    """Held to weights taken away one by one; all 12 networks agree, which survives Holm over 16 claims."""
    claimed = {"snip": "fc2.weight", "magnitude": "fc2.weight", "random": "fc3.weight"}  # of 64-300-100-10
    hits: dict[str, list[bool]] = {method: [] for method in claimed}
    for seed in range(NETWORKS):
        dataset = disbud.data.load("digits", seed=seed)
        model = disbud.models.build("lenet-300-100", classes=10, input_shape=(1, 8, 8), seed=seed)
        for method, wanted in claimed.items():
            batches = dataset.batches(seed=seed) if method == "snip" else None
            scores = disbud.scores(model, method, batches=batches, example=dataset.example(), seed=seed)
            owners = [name for name, score in scores.items() for _ in range(score.numel())]
            removed = torch.cat([score.flatten() for score in scores.values()]).argsort().tolist()
            last = {owners[weight]: place for place, weight in enumerate(removed)}
            hits[method].append(min(last, key=lambda name: last[name]) == wanted)
    found = collapse.where_layers_empty(NO_FORM, EMPTY, [ON_DIGITS]).results  # type: ignore[attr-defined]
    for method, decided in found.items():
        assert decided.estimate == pytest.approx(sum(hits[method]) / NETWORKS - 0.5)
        assert min(decided.p_supported, decided.p_contradicted) < 0.05 / 16


def test_synflow_empties_layers_in_one_round_and_in_a_hundred_none(monkeypatch: pytest.MonkeyPatch) -> None:
    variants = [ON_DIGITS, replace(ON_DIGITS, sparsity=0.998)]
    decided = collapse.synflow_leaves_none_empty(NO_FORM, EMPTY, variants)
    assert decided.verdict is Verdict.SUPPORTED
    assert decided.p_supported < 0.05 / 16
    monkeypatch.setattr(collapse, "_ROUNDS", 1)
    assert collapse.synflow_leaves_none_empty(NO_FORM, EMPTY, variants).verdict is Verdict.CONTRADICTED


# Signals in random networks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        (robust.flat_on_the_edge, Verdict.SUPPORTED),
        (robust.layers_empty_off_the_edge, Verdict.SUPPORTED),
        (robust.rescaling_restores_random, Verdict.SUPPORTED),
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


def test_a_layer_that_a_fifth_of_the_networks_empty_is_not_one_that_none_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def empties(share: float) -> None:
        """Off the edge all networks have an empty layer at 90 %, on it that share of them."""
        monkeypatch.setattr(
            robust, "_critical", lambda factor, seed: 0.95 if factor == 1.0 and seed >= 20 * share else 0.3
        )

    for share, verdict in ((0.0, Verdict.SUPPORTED), (0.2, Verdict.UNDECIDED), (0.6, Verdict.CONTRADICTED)):
        empties(share)
        assert robust.layers_empty_off_the_edge(NO_FORM, EMPTY, []).verdict is verdict


@pytest.mark.parametrize(
    ("dense", "plain", "rescaled", "verdict"),
    [
        (0.8, 1.0, 0.82, Verdict.SUPPORTED),
        (0.8, 1.0, 0.95, Verdict.CONTRADICTED),  # falls short
        (0.8, 1.0, 0.5, Verdict.CONTRADICTED),  # overshoots
        (0.8, 0.6, 0.8, Verdict.CONTRADICTED),  # pruning has not ordered it
    ],
)
def test_restored_is_what_was_ordered_and_is_near_what_it_was(
    monkeypatch: pytest.MonkeyPatch, dense: float, plain: float, rescaled: float, verdict: Verdict
) -> None:
    ends = {"dense": dense, "none": plain, "weights": rescaled}
    monkeypatch.setattr(robust, "_end", lambda method, seed, how: ends[how] + 1e-3 * math.sin(seed))
    assert robust.rescaling_restores_random(NO_FORM, EMPTY, []).verdict is verdict


def test_sensitivity_spreads_less_over_a_stable_resnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the largest depth, held to gradients of single examples by vmap; with the sides exchanged it fails."""
    monkeypatch.setattr(robust, "DEPTHS", (2, 8))
    decided = robust.stable_resnets_spread_no_further(NO_FORM, EMPTY, [])
    assert decided.verdict is Verdict.SUPPORTED
    narrower = []
    for seed in range(robust.FEW):
        x, y = robust._batch(robust.WIDTH, seed)
        spreads = []
        for scale in (1.0, 8**-0.5):
            model = robust._Residual(8, robust.WIDTH, seed, scale)
            weights = {name: weight.detach() for name, weight in model.named_parameters()}

            def loss(weights, x, y, model=model):  # type: ignore[no-untyped-def]
                return functional.cross_entropy(functional_call(model, weights, (x[None],)), y[None])

            gradients = vmap(grad(loss), in_dims=(None, 0, 0))(weights, x, y)
            found = [
                float((weight * gradients[name]).square().mean())
                for name, weight in weights.items()
                if name != "head.weight"
            ]
            spreads.append(math.log(max(found) / min(found)))
        narrower.append(spreads[0] - spreads[1])
    assert decided.estimate == pytest.approx(sum(narrower) / robust.FEW, rel=1e-3)  # type: ignore[attr-defined]
    measured = robust._in_blocks
    monkeypatch.setattr(robust, "_in_blocks", lambda *of, stable: measured(*of, stable=not stable))
    assert robust.stable_resnets_spread_no_further(NO_FORM, EMPTY, []).verdict is Verdict.CONTRADICTED
