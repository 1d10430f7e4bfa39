"""Recipes: all settings of a training run as one value, and those of the papers by name; torch-free."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass, field

from disbud.catalogue import Value, parse
from disbud.errors import DisbudError, unknown_name
from disbud.origin import Json

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "step")
AUGMENTATIONS = ("none", "flip", "crop-flip")
PRECISIONS = ("fp32", "bf16")
ACCELERATIONS = ("off", "auto")
_CHOICES: dict[str, tuple[str, ...]] = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "augment": AUGMENTATIONS,
    "precision": PRECISIONS,
    "accelerate": ACCELERATIONS,
}
# Settings that came after results were first kept: at these values they are no part of an identity.
_ADDED: dict[str, Json] = {"accelerate": "off"}


def _whole(key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DisbudError(f"{key} is a whole number of at least 1, not {value!r}")
    return value


def _number(
    key: str, value: object, *, above: float = -math.inf, least: float = -math.inf, below: float = math.inf
) -> float:
    fits = (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value > above
        and least <= value < below
    )
    if not fits:
        low = f"above {above:g}" if above > -math.inf else f"at least {least:g}"
        high = f" and below {below:g}" if below < math.inf else ""
        raise DisbudError(f"{key} must be a number {low}{high}, not {value!r}")
    return float(value)  # type: ignore[arg-type]


def _choice(key: str, value: object, known: Collection[str]) -> None:
    if value not in known:
        raise unknown_name(key, str(value), known)


def _written(value: Json) -> str:
    """A setting as `parse_recipe` reads it."""
    if isinstance(value, list):
        return "+".join(_written(part) for part in value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Learning rates change every step, not every epoch.

    `momentum` is SGD's momentum and Adam's first beta. `milestones` are the epochs at which schedule "step"
    multiplies the learning rate by `gamma`. `warmup_epochs` raise it linearly from nothing, before the
    schedule. `augment` "flip" mirrors half of the images; "crop-flip" also shifts each by up to an eighth
    of its height and width, black around it (4 pixels of 32, as the papers do). `label_smoothing` changes what is
    descended, not the losses that are reported. `precision` "bf16" is autocast: the weights stay float32.
    `channels_last` is a memory order: weights keep their values, and are put back as they lay. `clip_norm`
    bounds the norm of all gradients together. `accelerate` "auto" trains tickets on the CPU by sparse kernels
    where a cost model says that this is faster: the same steps, but for rounding. `revision` rises when
    training by an unchanged recipe comes to give other numbers.

    >>> from disbud.training import Recipe
    >>> Recipe(epochs=2, lr=0.05).learning_rate(step=0, steps_per_epoch=10)
    0.05
    """

    epochs: int = 30
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: str = "cosine"
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    augment: str = "none"
    label_smoothing: float = 0.0
    precision: str = "fp32"
    channels_last: bool = False
    clip_norm: float | None = None
    accelerate: str = "off"
    revision: int = 1
    name: str = field(default="", compare=False)
    summary: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "revision"):
            self._set(key, _whole(key, getattr(self, key)))
        for key, least, below in (
            ("momentum", 0.0, 1.0),
            ("weight_decay", 0.0, math.inf),
            ("warmup_epochs", 0.0, self.epochs),
            ("label_smoothing", 0.0, 1.0),
        ):
            self._set(key, _number(key, getattr(self, key), least=least, below=below))
        for key in ("lr", "gamma"):
            self._set(key, _number(key, getattr(self, key), above=0.0))
        if self.clip_norm is not None:
            self._set("clip_norm", _number("clip_norm", self.clip_norm, above=0.0))
        for key in ("nesterov", "channels_last"):
            if not isinstance(getattr(self, key), bool):
                raise DisbudError(f"{key} is true or false, not {getattr(self, key)!r}")
        for key, known in _CHOICES.items():
            _choice(key, getattr(self, key), known)
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise DisbudError("nesterov=true needs optimizer=sgd with a momentum above 0")
        self._check_milestones()

    def learning_rate(self, *, step: int, steps_per_epoch: int) -> float:
        """The learning rate of one step of the whole run, the first being 0.

        >>> from disbud.training import RECIPES
        >>> [f"{RECIPES['su2020'].learning_rate(step=epoch, steps_per_epoch=1):g}" for epoch in (79, 80, 120)]
        ['0.1', '0.01', '0.001']
        """
        warmup = self.warmup_epochs * steps_per_epoch
        if step + 1 < warmup:
            return self.lr * (step + 1) / warmup
        if self.schedule == "cosine":  # SGDR without restarts, Loshchilov & Hutter 2017, eq. 5
            done = max(0.0, step - warmup) / (self.epochs * steps_per_epoch - warmup)
            return self.lr * (1 + math.cos(math.pi * done)) / 2
        passed = sum(step >= milestone * steps_per_epoch for milestone in self.milestones)
        return self.lr * self.gamma**passed

    def changed(self, **settings: Value) -> Recipe:
        """This recipe with other settings; what they leave without a meaning is dropped.

        With other `epochs` alone, milestones and warm-up scale along. Milestones go when the schedule does,
        and nesterov when the optimizer does.

        >>> from disbud.training import RECIPES
        >>> RECIPES["su2020"].changed(epochs=16).milestones
        (8.0, 12.0)
        """
        known = [name for name in self._settings() if name != "revision"]
        for key in settings:
            if key not in known:
                raise unknown_name("setting of a recipe called", key, known)
        values: dict[str, object] = dict(settings)
        if "epochs" in settings:
            scale = _whole("epochs", settings["epochs"]) / self.epochs
            values.setdefault("milestones", tuple(milestone * scale for milestone in self.milestones))
            values.setdefault("warmup_epochs", self.warmup_epochs * scale)
        if settings.get("schedule", "step") != "step" and "milestones" not in settings:
            values["milestones"] = ()
        if settings.get("optimizer", "sgd") != "sgd":
            values.setdefault("nesterov", False)
        return dataclasses.replace(self, **values)  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Json]:
        """Every setting that shapes the numbers, each of one type: what identities are made of."""
        return {key: value for key, value in self._settings().items() if (key, value) not in _ADDED.items()}

    def __str__(self) -> str:
        base = RECIPES.get(self.name)
        mine = {key: value for key, value in self._settings().items() if key != "revision"}
        if base is None:
            return ",".join(f"{key}={_written(value)}" for key, value in mine.items())
        theirs = base._settings()
        changes = [f"{key}={_written(value)}" for key, value in mine.items() if value != theirs[key]]
        return self.name + (":" + ",".join(changes) if changes else "")

    def _settings(self) -> dict[str, Json]:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.compare}
        return {**values, "milestones": list(self.milestones)}

    def _set(self, key: str, value: float) -> None:
        object.__setattr__(self, key, value)

    def _check_milestones(self) -> None:
        given = self.milestones
        listed = tuple(given) if isinstance(given, tuple | list) else (given,)
        milestones = tuple(_number("a milestone", milestone, above=0.0) for milestone in listed)
        if milestones and self.schedule != "step":
            raise DisbudError(f"milestones belong to schedule=step, and the schedule is {self.schedule!r}")
        if not milestones and self.schedule == "step":
            raise DisbudError("schedule=step needs milestones, as in milestones=80+120")
        if list(milestones) != sorted(set(milestones)):
            raise DisbudError(f"milestones must rise from one to the next, not {_written(list(milestones))}")
        if milestones and milestones[-1] >= self.epochs:
            raise DisbudError(
                f"milestone {milestones[-1]:g} is never reached: the recipe has {self.epochs} epochs"
            )
        object.__setattr__(self, "milestones", milestones)


def _step_recipe(name: str, summary: str, **settings: object) -> Recipe:
    common: dict[str, object] = {
        "epochs": 160,
        "lr": 0.1,
        "weight_decay": 1e-4,
        "schedule": "step",
        "milestones": (80.0, 120.0),
        "augment": "crop-flip",
    }
    return Recipe(name=name, summary=summary, **{**common, **settings})  # type: ignore[arg-type]


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="digits",
            summary="quick, for the 8x8 digits: seconds for a LeNet-300-100",
            epochs=100,
            batch_size=64,
            lr=0.1,
            nesterov=True,
            weight_decay=1e-4,
            warmup_epochs=1,
        ),
        Recipe(
            name="shapes",
            summary="quick, for drawn shapes and other small images: minutes for a small ResNet",
            epochs=10,
            batch_size=64,
            lr=0.05,
            nesterov=True,
            weight_decay=5e-4,
            warmup_epochs=1,
            channels_last=True,
        ),
        _step_recipe("su2020", "Su et al. 2020, CIFAR: random tickets", batch_size=64),
        _step_recipe(
            "su2020-tiny",
            "Su et al. 2020, Tiny ImageNet, as released",
            batch_size=64,
            epochs=300,
            milestones=(150.0, 225.0),
        ),
        _step_recipe(
            "tanaka2020",
            "Tanaka et al. 2020, VGG-16 on CIFAR-100, as released: SynFlow",
            nesterov=True,
            milestones=(60.0, 120.0),
        ),
        _step_recipe("wang2020", "Wang et al. 2020, ResNet-32 on CIFAR-10, as released: GraSP"),
        _step_recipe("frankle2021", "Frankle et al. 2021, ResNet-20 on CIFAR-10, as in their OpenLTH"),
    )
}
_DEFAULTS = {
    "digits": "digits",
    "cifar10": "frankle2021",
    "cifar100": "frankle2021",
    "tiny-imagenet": "su2020-tiny",
}


def parse_recipe(text: str) -> Recipe:
    """The recipe that "su2020" or "su2020:epochs=10,lr=0.05" names.

    >>> from disbud.training import parse_recipe
    >>> parse_recipe("su2020:epochs=10,lr=0.05").milestones
    (5.0, 7.5)
    """
    spec = parse(text)
    if spec.name not in RECIPES:
        raise unknown_name("recipe", spec.name, RECIPES)
    if spec.argument is not None:
        raise DisbudError(f"{text!r}: {spec.argument!r} should read key=value, as in {spec.name}:epochs=10")
    try:
        return RECIPES[spec.name].changed(**spec.settings)
    except DisbudError as error:
        raise DisbudError(f"recipe {text!r}: {error}") from None


def recipe_for(dataset: str) -> Recipe:
    """The recipe used where none is asked for, by the name of the data set, with or without its settings.

    >>> from disbud.training import recipe_for
    >>> recipe_for("cifar10").epochs
    160
    """
    base = dataset.partition(":")[0].partition(" ")[0]  # of "digits (validation)"
    return RECIPES[_DEFAULTS.get(base, "shapes")]
