"""What a recipe is: the frozen description that, with data and a seed, decides a training run.

Knows fields and their limits; must not know files, data or the loop. A checkpoint stores it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from model_repo.fractalnet import FractalConfig

Augmentation = Literal["none", "+", "++"]
Schedule = Literal["halving", "cosine", "steps"]
Sandwich = Literal["", "columns", "nested"]


@dataclass(frozen=True)
class Levers:
    """What goes beyond the paper, one lever each, all off by default.

    Attributes:
        sandwich: every mini-batch trains the full net without drops on the labels, and others on its detached soft
            answers, with losses 1 and 1 in all: `columns`, the shallowest, the deepest and a random one between;
            `nested`, column 1 and a random f_k between it and the full net. `draws` and `tied` are then ignored.
        private_norms: every stage has batch norms of its own in training, scale and shift too, which it keeps.
        average: decay of an exponential moving average of the weights, which is measured and published instead of
            the last ones; 0 is off.
        blend: share of the first weights in those measured and published, after a warm restart: the mean of the ends
            of both cycles; 0 is off.
        late_draws: shares that replace `draws` from `late_from` of the training on, 0…1: late columns.
        tune_epochs: after training, every stage gets its own copy of its weights and trains it alone for so long.
        tune_rate: the rate at its start, as a share of the recipe's; it falls along a half cosine.
        tune_distilled: the copies learn from the full net's soft answers instead of the labels.
        label_smoothing: the share of the loss's target that is spread evenly over all classes.
        cutout: side of a square of zeros (the mean) at a random place of every image, in pixels; 0 is off.
    """

    sandwich: Sandwich = ""
    private_norms: bool = False
    average: float = 0.0
    blend: float = 0.0
    late_draws: dict[str, float] = field(default_factory=dict)
    late_from: float = 0.5
    tune_epochs: int = 0
    tune_rate: float = 0.1
    tune_distilled: bool = False
    label_smoothing: float = 0.0
    cutout: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be."""
        if not (0 <= self.average < 1 and 0 <= self.label_smoothing < 1 and 0 <= self.late_from <= 1):
            raise ValueError("average and label_smoothing are in [0, 1), late_from in [0, 1]")
        if not 0 <= self.blend < 1 or (self.blend and (self.average or self.private_norms)):
            raise ValueError("blend is in [0, 1), without average and private norms")
        if self.cutout < 0 or self.tune_epochs < 0 or self.tune_rate <= 0:
            raise ValueError("cutout and tune_epochs are at least 0, tune_rate above")


@dataclass(frozen=True)
class Recipe:
    """How one net is trained.

    Attributes:
        name: its name in the log, the manifest and on the command line.
        columns, channels, dropout: the net (see FractalConfig); classes and input size come with the data.
        net_options: further fields of the net's FractalConfig, such as `column_divisors` or `family`.
        draws: relative share of each kind of mini-batch. Kinds: `local` (the full net, every join input dropped
            with `local_p`), `column` (one column of the net, drawn evenly: the paper's global drop-path), a stage's
            name (`column2`, `joined2`), `full` (nothing dropped), or `stochastic_depth` (of a residual net). Nested
            fractals are column1, joined2 …, local.
        tied: every mini-batch trains the full net with local drop-path and all columns, with losses 1 + 1/C each
            (the mode of the authors' released script); `draws` is then ignored.
        local_p: drop probability of a join's input (section 3.1: 0.15).
        epochs, batch, rate, momentum, nesterov, weight_decay: plain SGD.
        schedule: `halving` divides the rate by 10 whenever the remaining epochs halve (section 4.1); `steps` at each
            share of the training in `drops`; `cosine` warms up linearly over `warmup` of all steps, then follows a
            half cosine to zero.
        augmentation: `none`; `+` mirror and shifts of up to 4 pixels with zero padding after normalisation; `++` the
            same with reflect padding. With a `crop`, any but `none` is a mirror and a crop at a random place.
        image_size: height and width that images are brought to, unless the command line says otherwise.
        crop: side of the square that the net sees of an image, in the middle when it is measured; 0 means all of it.
        levers: what goes beyond the paper.
    """

    name: str
    columns: int
    channels: tuple[int, ...]
    draws: dict[str, float] = field(default_factory=lambda: {"local": 0.5, "column": 0.5})
    tied: bool = False
    local_p: float = 0.15
    dropout: tuple[float, ...] = ()
    epochs: int = 400
    batch: int = 100
    rate: float = 0.02
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: Schedule = "halving"
    warmup: float = 0.0
    drops: tuple[float, ...] = ()
    augmentation: Augmentation = "+"
    image_size: int = 32
    crop: int = 0
    net_options: dict[str, Any] = field(default_factory=dict)
    levers: Levers = field(default_factory=Levers)

    def __post_init__(self) -> None:
        """Raise ValueError for a recipe that cannot be followed."""
        if not self.tied and (
            not self.draws or min(self.draws.values()) < 0 or sum(self.draws.values()) <= 0
        ):
            raise ValueError(f"recipe {self.name}: draws need shares of at least 0 that do not sum to 0")
        if not 0 <= self.local_p < 1:
            raise ValueError(f"recipe {self.name}: local_p must be in [0, 1)")
        if self.epochs < 1 or self.batch < 2:
            raise ValueError(
                f"recipe {self.name}: epochs >= 1 and batch >= 2, since batch norm needs a batch"
            )
        if (self.schedule == "steps") != bool(self.drops):
            raise ValueError(f"recipe {self.name}: drops belong to the schedule `steps`, and it needs them")

    def net(self, classes: int, image_size: int) -> FractalConfig:
        """The net that this recipe trains for images of that side.

        Raises ValueError if there is no such net, or the crop is larger than the images.
        """
        if self.crop > image_size:
            raise ValueError(f"recipe {self.name} crops {self.crop} pixels out of {image_size}: use --size")
        return FractalConfig(
            self.columns,
            self.channels,
            classes,
            self.crop or image_size,
            dropout=self.dropout,
            **self.net_options,
        )

    def with_overrides(self, **changes: Any) -> Recipe:
        """A copy with the given fields changed; None leaves a field as it is."""
        return replace(self, **{key: value for key, value in changes.items() if value is not None})

    def with_levers(self, **changes: Any) -> Recipe:
        """A copy with the given levers pulled. Raises TypeError for one that is not there."""
        return replace(self, levers=replace(self.levers, **changes))

    def to_dict(self) -> dict[str, Any]:
        """The recipe in plain types, for a checkpoint."""
        return _plain(asdict(self))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """The inverse of `to_dict`; fields that an older recipe lacks get their default."""
        tupled = _tupled(values)
        return cls(**tupled | {"levers": Levers(**tupled.get("levers", {}))})


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Tuples as lists, which survive a checkpoint unchanged."""
    return {
        key: list(v) if isinstance(v, tuple) else _plain(v) if isinstance(v, dict) else v
        for key, v in values.items()
    }


def _tupled(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: tuple(v) if isinstance(v, list) else _tupled(v) if isinstance(v, dict) else v
        for key, v in values.items()
    }
