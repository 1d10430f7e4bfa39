"""The networks: published sizes, seeded weights, and that they run, trace and compile as they claim."""

from __future__ import annotations

import copy
import random
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from disbud.errors import DisbudError
from disbud.models import CATALOGUE, build, parameter_count
from disbud.models.sizes import scaled

torch.set_num_threads(1)

# Wide enough for every layer to have several channels, small enough to run in milliseconds.
SLIM = {"resnet110": 0.25, "wrn-28-10": 0.03, "wrn-16-8": 0.05, "wideresnet": 0.03}


def slim(name: str) -> str:
    """A narrow form of a catalogue model."""
    return f"{name}:width={SLIM.get(name, 0.1)}"


def layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The convolutions and linear layers."""
    return [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]


def meta(spec: str, *, classes: int = 10, input_shape: tuple[int, ...] = (3, 32, 32)) -> nn.Module:
    """The model without its weights' memory."""
    with torch.device("meta"):
        return build(spec, classes=classes, input_shape=input_shape)


def batch(shape: tuple[int, ...], size: int = 2) -> Tensor:
    """A batch of inputs from a generator of its own."""
    return torch.randn(size, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("spec", "counted", "published"),
    [
        ("lenet-300-100", "prunable", 266_200),
        ("lenet-300-100", "total", 266_610),
        ("lenet-5", "prunable", 430_500),  # Lee et al. 2019: 431K with biases
        ("lenet-5", "total", 431_080),
        ("conv-2", "prunable", 38_592 + 4_262_400),  # Frankle & Carbin 2019: 38K in convolutions of 4.3M
        ("conv-4", "prunable", 259_776 + 2_165_248),  # 260K of 2.4M
        ("conv-6", "prunable", 1_144_512 + 1_116_672),  # 1.1M in convolutions
        ("vgg11-bn", "total", 9_231_114),
        ("vgg13-bn", "total", 9_416_010),
        ("vgg16", "total", 14_714_688 + 5_130),  # the convolutions' 14.71M, the classifier
        ("vgg16-bn", "total", 14_728_266),
        ("vgg19-bn", "total", 20_040_522),
        ("resnet20", "prunable", 270_896),
        ("resnet20:shortcut=identity", "prunable", 268_336),
        ("resnet20:shortcut=identity", "total", 269_722),
        ("resnet32:shortcut=identity", "total", 464_154),
        ("resnet44:shortcut=identity", "total", 658_586),
        ("resnet56:shortcut=identity", "total", 853_018),
        ("resnet110:shortcut=identity", "total", 1_727_962),  # He et al. 2016, table 6: 1.7M
        ("resnet18", "total", 11_173_962),
        ("resnet18:stem=imagenet,classes=1000", "total", 11_689_512),  # these three are torchvision's
        ("resnet34:stem=imagenet,classes=1000", "total", 21_797_672),
        ("resnet50:stem=imagenet,classes=1000", "total", 25_557_032),
        ("wrn-28-10", "total", 36_479_194),  # Zagoruyko & Komodakis 2016: 36.5M
        ("wideresnet:depth=40,factor=8", "total", 35_748_314),
        ("wideresnet:depth=16,factor=10", "total", 17_116_634),
    ],
)
def test_published_counts(spec: str, counted: str, published: int) -> None:
    assert getattr(parameter_count(spec), counted) == published


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        ("vgg11", 9),
        ("vgg19-bn", 17),
        ("resnet20", 22),
        ("resnet20:shortcut=identity", 20),
        ("resnet32:width=2", 34),
        ("resnet32:shortcut=identity", 32),
        ("resnet18", 21),
        ("resnet50", 54),
        ("wrn-28-10", 29),
    ],
)
def test_number_of_layers(spec: str, count: int) -> None:
    assert len(layers(meta(spec))) == count


def test_resnet50_is_named_as_torchvision_names_it() -> None:
    names = list(meta("resnet50:stem=imagenet").state_dict())
    assert names[:3] == ["conv1.weight", "bn1.weight", "bn1.bias"]
    assert {"layer1.0.conv3.weight", "layer1.0.downsample.0.weight", "layer4.2.bn3.running_var"} <= set(names)
    assert len(names) == 320


@pytest.mark.parametrize("name", CATALOGUE)
def test_runs_at_its_smallest_size_and_its_papers(name: str) -> None:
    entry = CATALOGUE[name]
    smallest = (1, *2 * (entry.smallest,)) if entry.smallest else (7,)
    for shape in (smallest, entry.input_shape):
        model = build(slim(name), classes=7, input_shape=shape).eval()
        for size in (1, 3):
            out = model(batch(shape, size))
            assert out.shape == (size, 7)
            assert out.isfinite().all()


@pytest.mark.parametrize("name", [n for n, e in CATALOGUE.items() if (e.smallest or 1) > 1])
def test_one_pixel_less_than_the_smallest_size_fails(name: str) -> None:
    entry = CATALOGUE[name]
    assert entry.smallest is not None
    less = entry.smallest - 1
    with pytest.raises(DisbudError, match=rf"at least {less + 1}x{less + 1} pixels, not {less}x40"):
        build(slim(name), input_shape=(3, less, 40))
    function = entry.load()
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of layers with nothing in them
        model = function(classes=2, input_shape=(3, less, less), width=0.1, **entry.fixed)
    with pytest.raises(RuntimeError, match="too small"):  # so the refusal is right: torch cannot run it
        model(batch((3, less, less)))


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_parameter_is_trained(name: str) -> None:
    x = batch(CATALOGUE[name].input_shape)
    model = build(slim(name), input_shape=x.shape[1:])
    torch.autograd.backward(model(x).pow(2).sum())
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", CATALOGUE)
def test_traces_symbolically(name: str) -> None:
    x = batch(CATALOGUE[name].input_shape)
    model = build(slim(name), input_shape=x.shape[1:]).eval()
    with torch.no_grad():
        assert torch.equal(fx.symbolic_trace(model)(x), model(x))


@pytest.mark.parametrize("name", ["lenet-5", "vgg11-bn", "resnet20", "resnet50", "wrn-16-8"])
def test_compiles_without_a_graph_break(name: str) -> None:
    x = batch(CATALOGUE[name].input_shape)
    model = build(slim(name), input_shape=x.shape[1:]).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize(
    "spec", ["conv-2", "vgg11", "resnet20:shortcut=identity,width=0.5", "wrn-16-8:width=0.05"]
)
def test_computes_the_same_in_channels_last(spec: str) -> None:
    model = build(spec).eval().double()
    x = batch((3, 32, 32)).double()
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    torch.testing.assert_close(last(x.to(memory_format=torch.channels_last)), model(x))


@pytest.mark.parametrize("name", CATALOGUE)
def test_only_torch_holds_weights(name: str) -> None:
    owners = [m for m in meta(name).modules() if list(m.parameters(recurse=False))]
    assert {type(m) for m in owners} <= {nn.Linear, nn.Conv2d, nn.BatchNorm2d}


@pytest.mark.parametrize("name", CATALOGUE)
def test_weights_come_from_the_seed(name: str) -> None:
    first, again, other = (build(slim(name), seed=seed).state_dict() for seed in (3, 3, 4))
    for key, value in first.items():
        assert torch.equal(value, again[key])
        if key.endswith("weight") and value.dim() > 1:
            assert not torch.equal(value, other[key])


def test_the_global_streams_are_left_alone() -> None:
    def state() -> tuple[object, ...]:
        return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())

    before = state()
    build("resnet20:width=0.25")
    build("lenet-5:init=torch", input_shape=(1, 28, 28), seed=7)
    parameter_count("resnet20")
    assert state() == before


@pytest.mark.parametrize("spec", ["resnet20", "conv-4", "wrn-16-8:width=0.2", "mlp:activation=tanh"])
def test_default_weights_are_kaiming_normal(spec: str) -> None:
    model = build(spec, classes=100)
    for _, layer in layers(model):
        weight = layer.weight.detach()
        fan_in = weight[0].numel()
        spread = weight.std().item() / (2 / fan_in) ** 0.5
        assert abs(spread - 1) < 5 / (2 * weight.numel()) ** 0.5
        kurtosis = (weight / weight.std()).pow(4).mean().item()
        assert abs(kurtosis - 3) < 5 * (24 / weight.numel()) ** 0.5  # a uniform's is 1.8
        assert layer.bias is None or not layer.bias.any()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all((m.weight == 1).all() and not m.bias.any() for m in norms)


def test_torch_initialisation_is_torchs_own() -> None:
    model = build("mlp:init=torch,hidden=400", input_shape=(100,))
    bound = 100**-0.5
    assert 0.99 * bound < model.fc1.weight.abs().max().item() <= bound
    assert model.fc1.bias.any()


def test_width_scales_every_layer_but_the_ends() -> None:
    for (name, narrow), (_, full) in zip(
        layers(meta("vgg16:width=0.25")), layers(meta("vgg16")), strict=True
    ):
        n_out, n_in = full.weight.shape[:2]
        assert narrow.weight.shape[0] == (n_out if name == "classifier" else n_out / 4)
        assert narrow.weight.shape[1] == (n_in if name == "features.0" else n_in / 4)


def test_width_rounds_and_leaves_a_channel() -> None:
    assert [scaled(16, w) for w in (1, 0.5, 0.29, 0.001, 2.5)] == [16, 8, 5, 1, 40]
    assert meta("resnet50:width=0.001").fc.in_features == 4  # a bottleneck's four-fold of one


def test_hidden_sizes() -> None:
    def shapes(spec: str) -> list[tuple[int, ...]]:
        return [tuple(m.weight.shape) for _, m in layers(meta(spec, classes=5, input_shape=(2, 3)))]

    assert shapes("mlp:hidden=8") == [(8, 6), (5, 8)]
    assert shapes("mlp:hidden=8+4+2,width=0.5") == [(4, 6), (2, 4), (1, 2), (5, 1)]
    assert shapes("mlp:hidden=null") == [(5, 6)]
    with pytest.raises(DisbudError, match="that of one example"):
        build("mlp", input_shape=())


def test_activation_is_the_one_asked_for() -> None:
    x = batch((4,))
    model = build("mlp:hidden=3,activation=tanh", input_shape=(4,))
    torch.testing.assert_close(model(x), model.fc2(torch.tanh(model.fc1(x))))


@pytest.mark.parametrize(("stem", "side"), [("cifar", 64), ("tiny", 32), ("imagenet", 16)])
def test_stem_sets_the_size_of_the_first_maps(stem: str, side: int) -> None:
    model = build(f"resnet18:stem={stem},width=0.05").eval()
    seen: list[torch.Size] = []
    model.layer1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2:]))
    model(batch((3, 64, 64), 1))
    assert seen == [torch.Size((side, side))]


def test_identity_shortcut_subsamples_and_fills_with_zeros() -> None:
    shortcut = build("resnet20:shortcut=identity,width=0.3").layer2[0].downsample
    x = batch((5, 7, 8))
    out = shortcut(x)
    assert torch.equal(out[:, :5], x[:, :, ::2, ::2])
    assert out.shape == (2, 10, 4, 4)
    assert not out[:, 5:].any()


def test_blocks_add_their_shortcuts() -> None:
    x = batch((8, 8, 8))
    block = build("resnet20:width=0.5").layer2[0].eval()
    branch = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
    torch.testing.assert_close(block(x), (branch + block.downsample(x)).relu())
    block = build("wideresnet:width=0.5,factor=1").layer2[0].eval()
    active = block.bn1(x).relu()
    branch = block.conv2(block.bn2(block.conv1(active)).relu())
    torch.testing.assert_close(block(x), branch + block.downsample(active))


def test_spec_wins_over_arguments() -> None:
    model = build("mlp:classes=3,input_shape=1+2+5,hidden=4", classes=10, input_shape=(3, 32, 32))
    assert (model.fc1.in_features, model.fc2.out_features) == (10, 3)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("resnet21", "there is no model 'resnet21'; did you mean .*'resnet20'"),
        ("resnet20:widht=2", "there is no setting of resnet20 called 'widht'; did you mean 'width'"),
        ("resnet20:depth=32", "no setting of resnet20 called 'depth'"),
        ("resnet20:0.5", "'0.5' should read key=value; settings of resnet20 are shortcut, width, init"),
        ("resnet20:width=0", "width multiplies the channels: a number above 0, as in width=0.5, not 0"),
        ("resnet20:width=true", "not True"),
        ("resnet20:init=kaiming", "there is no initialisation 'kaiming'; did you mean 'kaiming-normal'"),
        ("resnet20:shortcut=identty", "there is no shortcut 'identty'; did you mean 'identity'"),
        ("resnet18:stem=cifer", "there is no stem 'cifer'; did you mean 'cifar'"),
        ("mlp:activation=rellu", "there is no activation 'rellu'; did you mean 'relu'"),
        ("mlp:hidden=30+x", "each size in hidden is an integer of at least 1, not 'x'"),
        ("mlp:hidden=wide", "hidden reads hidden=300\\+100"),
        ("mlp:classes=0", "classes is an integer of at least 1, not 0"),
        ("resnet20:input_shape=64", "resnet20 takes images, .* not \\(64,\\); mlp takes any"),
        ("vgg16:input_shape=3+8+8", "at least 16x16 pixels, not 8x8; .*: conv-6, conv-4, conv-2, resnet20"),
        ("conv-6:input_shape=3+6+6", "at least 8x8 pixels, not 6x6; .*: conv-4, conv-2, resnet20"),
        ("wideresnet:depth=27", "6n \\+ 4 layers, such as 22 or 28, not 27"),
        ("wideresnet:depth=4", "depth is an integer of at least 10, not 4"),
        ("wideresnet:factor=-1", "factor widens the stages: a number above 0, as in factor=10, not -1"),
    ],
)
def test_errors_say_what_would_work(spec: str, says: str) -> None:
    with pytest.raises(DisbudError, match=says):
        build(spec)


def plain(depth: int = 1) -> nn.Module:
    """A factory that asks for neither classes nor shape."""
    return nn.Sequential(*(nn.Linear(4, 4) for _ in range(depth)))


def shaped(input_shape: tuple[int, ...], *, classes: int) -> nn.Module:
    """A factory that asks for both."""
    return nn.Linear(input_shape[0], classes)


def passing(**rest: object) -> nn.Module:
    """A factory that would hand its settings on."""
    return nn.Linear(len(rest) + 1, 1)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's module that can be imported by the name `own_models`."""
    module = types.ModuleType("own_models")
    for function in (plain, shaped, passing):
        setattr(module, function.__name__, function)
    module.Net = type("Net", (nn.Linear,), {"__init__": lambda self, n=3: nn.Linear.__init__(self, n, n)})
    module.made = nn.Linear(2, 2)
    module.needy, module.nothing = lambda n: nn.Linear(n, n), lambda: None
    monkeypatch.setitem(sys.modules, "own_models", module)


@pytest.mark.usefixtures("own")
def test_own_factory_gets_what_it_asks_for() -> None:
    assert len(build("own_models:plain,depth=3")) == 3
    model = build("own_models:shaped", classes=6, input_shape=(9,))
    assert (model.in_features, model.out_features) == (9, 6)
    assert build("own_models:shaped,classes=2", classes=6, input_shape=(9,)).out_features == 2
    assert build("own_models:passing,a=1").in_features == 2
    assert build("own_models:Net,n=5").in_features == 5


@pytest.mark.usefixtures("own")
def test_own_factory_is_seeded() -> None:
    first, again, other = (build("own_models:plain", seed=seed)[0].weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("own_models:plain,dept=3", "no setting of own_models:plain called 'dept'; did you mean 'depth'"),
        ("own_models:needy", r"own_models:needy\(n\) cannot be called .*missing a required argument: 'n'"),
        ("own_models:nothing", "own_models:nothing returned a NoneType, not a torch.nn.Module"),
        ("own_models:made", "'own_models:made' is a model, not a function that makes one"),
        ("own_models:absent", "names no function that can be imported"),
        ("no_such_package:net", "names no function that can be imported"),
    ],
)
def test_own_factory_errors(spec: str, says: str) -> None:
    with pytest.raises(DisbudError, match=says):
        build(spec)


@pytest.mark.usefixtures("own")
def test_an_error_inside_ones_own_factory_is_not_dressed_up() -> None:
    with pytest.raises(TypeError, match="not subscriptable"):
        build("own_models:shaped,input_shape=4")


def test_the_catalogue_and_counting_need_no_torch_until_used() -> None:
    code = "import sys, disbud.models; sys.exit(not disbud.models.CATALOGUE or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_entries_describe_themselves() -> None:
    for name, entry in CATALOGUE.items():
        assert entry.name == name
        assert 20 < len(entry.summary.splitlines()[0]) == len(entry.summary)
        assert not set(entry.fixed) & set(entry.settings)
        assert {"width", "init"} <= set(entry.settings)


def test_counting_allocates_nothing() -> None:
    assert parameter_count("mlp:hidden=10000000", input_shape=(1000000,)).prunable == 10**13 + 10**8
    assert parameter_count("mlp:hidden=5", input_shape=(7,), classes=3) == (7 * 5 + 5 * 3, 50 + 8)
    with pytest.raises(DisbudError, match="for the models disbud knows by name"):
        parameter_count("own_models:plain")
