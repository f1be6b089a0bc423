"""Settings of the scoring stage."""

import math
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Literal

from raysb.placement import check_range, check_resources, least_of, most_of

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Who scores, in what portions, and how old the weights may be.

    Args:
        num_actors: Scorers, at least 1; or the fewest and the most, as in `2,8`: more while the
            trainers wait for rows, fewer when they do not.
        batch_size: Rows of a pool, the unit of scoring, at least 1.
        score: What is ranked: `loss`, `gradient_norm_bound`, `entropy`, `margin`, `el2n`,
            `reducible_loss`, or the import path of `(outputs, batch) -> [B]`; none: what the
            selector is defined on.
        dtype: Precision of the scoring forward pass: float32, bfloat16 or float16.
        image_scale: Share of their height and width at which pictures are scored, above 0 and at
            most 1.
        proxy: Another trained model that scores in place of the one that is trained, with weights
            that stay as they are: a run directory, a file of weights of a (pruned, distilled) copy
            of it, or the import path of a function that returns it; none: the model itself.
        min_agreement: Least mean rank correlation, of the last three audits, of a cheap score (by
            `dtype`, `image_scale`, `proxy` or `publish_every`) with that of the live model; below
            it the live model scores from then on, in full precision and size and with the weights
            of every step. Between -1, never, and 1. One pool in 50 is audited, of fewer rows one an
            epoch, and the first of the run decides nothing.
        max_staleness_steps: Bound on the age of a trained row's score, in optimizer steps, unless
            the selector draws rows by what is recorded of earlier epochs. 0 is lockstep,
            deterministic for any number of scorers; `auto` takes the smallest bound that does not
            stall, and for the first 200 steps of a selector that old scores stall (`beta` above 1)
            scores as late as it can; `none` only reports ages.
        publish_every: Optimizer steps between two publications of the weights, at least 1; above
            it a copy scores that is stale.
        num_cpus: CPUs that each scorer asks Ray for, at least 0.
        num_gpus: GPUs that each scorer asks Ray for; a fraction lets scorers and workers share one.
        resources: Custom resources that each scorer asks Ray for, amounts by name, so that it lies
            on machines that offer them; a reader asks for a tenth of each.
        max_nonfinite_fraction: Share of scored rows whose loss may be NaN or infinite before the
            run stops, between 0 and 1.
    """

    num_actors: int | tuple[int, int] = 1
    batch_size: int = 256
    score: str | None = None
    dtype: str = "float32"
    image_scale: float = 1.0
    proxy: str | None = None
    min_agreement: float = 0.8
    max_staleness_steps: int | Literal["auto"] | None = "auto"
    publish_every: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    resources: dict[str, float] = field(default_factory=dict)
    max_nonfinite_fraction: float = 0.01

    def __post_init__(self) -> None:
        check_range("scoring.num_actors", self.num_actors)
        for name in ("batch_size", "publish_every"):
            self._check_count(name, 1)
        for name in ("num_cpus", "num_gpus", "max_nonfinite_fraction"):
            self._check_amount(name)
        if self.max_nonfinite_fraction > 1:
            raise ValueError(
                f"scoring.max_nonfinite_fraction={self.max_nonfinite_fraction!r}: "
                "must be between 0 and 1"
            )
        if self.num_gpus > 1 and self.num_gpus % 1:
            raise ValueError(
                f"scoring.num_gpus={self.num_gpus!r}: above 1, Ray gives whole GPUs only"
            )
        check_resources("scoring", self.resources)
        if self.dtype not in DTYPES:
            raise ValueError(f"scoring.dtype={self.dtype!r}: must be one of {', '.join(DTYPES)}")
        if not (self.score is None or (isinstance(self.score, str) and self.score)):
            raise ValueError(f"scoring.score={self.score!r}: must be a name, or be none")
        if not (isinstance(self.image_scale, Real) and 0 < self.image_scale <= 1):
            raise ValueError(
                f"scoring.image_scale={self.image_scale!r}: must be above 0 and at most 1"
            )
        if not (self.proxy is None or (isinstance(self.proxy, str) and self.proxy)):
            raise ValueError(
                f"scoring.proxy={self.proxy!r}: must be a path or an import path, or be none"
            )
        least = self.min_agreement
        if not isinstance(least, Real) or isinstance(least, bool) or not -1 <= least <= 1:
            raise ValueError(f"scoring.min_agreement={least!r}: must be between -1 and 1")
        self._check_staleness()

    @property
    def min_actors(self) -> int:
        """Scorers that there always are."""
        return least_of(self.num_actors)

    @property
    def max_actors(self) -> int:
        """Scorers that there are at most."""
        return most_of(self.num_actors)

    def _check_staleness(self) -> None:
        if self.max_staleness_steps is None or self.max_staleness_steps == "auto":
            return
        self._check_count("max_staleness_steps", 0, " (lockstep), 'auto', or none")
        if self.max_staleness_steps == 0 and self.publish_every > 1:
            raise ValueError(
                f"scoring.publish_every={self.publish_every}: lockstep "
                "(scoring.max_staleness_steps=0) scores with the weights of every step, which must "
                "be published: set scoring.publish_every=1, or allow an age"
            )

    def _check_count(self, name: str, least: int, also: str = "") -> None:
        value = getattr(self, name)
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise ValueError(
                f"scoring.{name}={value!r}: must be a whole number of at least {least}{also}"
            )

    def _check_amount(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, Real) or not math.isfinite(value) or value < 0:
            raise ValueError(f"scoring.{name}={value!r}: must be a finite number of at least 0")
