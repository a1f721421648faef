"""What a recipe is: the frozen description that, with data and a seed, decides a training run.

Knows fields and their limits; must not know files, data or the loop. A checkpoint stores it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from model_repo.fractalnet import FractalConfig

Augmentation = Literal["none", "+", "++"]
Schedule = Literal["halving", "cosine"]


@dataclass(frozen=True)
class Recipe:
    """How one net is trained.

    Attributes:
        name: its name in the log, the manifest and on the command line.
        columns, channels, dropout: the net (see FractalConfig); classes and input size come with the data.
        draws: relative share of each kind of mini-batch. Kinds: `local` (the full net, every join input dropped
            with `local_p`), `column` (one column of the net, drawn evenly: the paper's global drop-path), or a stage's
            name (`column2`, `joined2`, `full`). Nested fractals are column1, joined2 …, local.
        tied: every mini-batch trains the full net with local drop-path and all columns, with losses 1 + 1/C each
            (the mode of the authors' released script); `draws` is then ignored.
        local_p: drop probability of a join's input (section 3.1: 0.15).
        epochs, batch, rate, momentum, nesterov, weight_decay: plain SGD.
        schedule: `halving` divides the rate by 10 whenever the remaining epochs halve (section 4.1); `cosine` warms
            up linearly over `warmup` of all steps, then follows a half cosine to zero.
        augmentation: `none`; `+` mirror and shifts of up to 4 pixels with zero padding after normalisation; `++` the
            same with reflect padding.
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
    augmentation: Augmentation = "+"

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

    def net(self, classes: int, input_size: int) -> FractalConfig:
        """The net that this recipe trains for such data."""
        return FractalConfig(self.columns, self.channels, classes, input_size, dropout=self.dropout)

    def with_overrides(self, **changes: Any) -> Recipe:
        """A copy with the given fields changed; None leaves a field as it is."""
        return replace(self, **{key: value for key, value in changes.items() if value is not None})

    def to_dict(self) -> dict[str, Any]:
        """The recipe in plain types, for a checkpoint."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """The inverse of `to_dict`."""
        plain: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**plain)
