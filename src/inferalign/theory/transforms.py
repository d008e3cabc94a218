"""Reward transforms: what KL-regularised training maximises instead of the calibrated reward x in [0, 1].

Training on Phi(x) with KL weight beta ends at the density e^(Phi(x)/beta) / Z over the reference's quantiles (InfAlign,
arXiv 2412.19792). Every transform here increases. beta is in the units of the `normalised` form, which differs from the
printed one only for e^(tx), t > 0: there it is e^(t(x-1)), so that beta stays comparable when t changes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inferalign.core.errors import InputError, UnknownName
from inferalign.core.lookup import did_you_mean
from inferalign.theory.grid import Grid
from inferalign.theory.procedures import OfN, Selection

Floats = NDArray[np.float64]

MAX_EXPONENT = 500.0
"""The largest |t| of e^(tx): beyond it e^t leaves the range of a float."""
FORMS = ("identity", "log", "exp:10", "exp:-10", "power:7", "power:-7", "one-shot", "optimal")
"""How to write a transform."""
INFALIGN = "InfAlign, arXiv 2412.19792"


class Transform(ABC):
    """An increasing function on [0, 1], known by its text form."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The text form; `parse_transform` reads it back (but for tables)."""

    @property
    @abstractmethod
    def formula(self) -> str:
        """The printed form, in x."""

    @property
    @abstractmethod
    def source(self) -> str:
        """Where it comes from, and what for."""

    @property
    @abstractmethod
    def reference_mean(self) -> float:
        """The mean of the printed form over the reference, whose x is uniform."""

    @abstractmethod
    def from_top(self, u: Floats, s: Floats) -> Floats:
        """The normalised form minus its value at 1, at points given as pairs u = 1 - s: digits kept at both ends."""

    @abstractmethod
    def _printed(self, x: Floats) -> Floats: ...

    @property
    def domain(self) -> str:
        return "0 <= x <= 1"

    @property
    def smooth(self) -> bool:
        """Whether it is known everywhere, not only at the nodes of a grid."""
        return True

    @property
    def scale(self) -> float:
        """The printed form divided by the normalised form."""
        return 1.0

    def __call__(self, x: ArrayLike) -> Floats:
        """The printed form, elementwise. Raises `InputError` outside the domain, and for NaN."""
        return self._printed(self._checked(x))

    def _checked(self, x: ArrayLike) -> Floats:
        x = np.asarray(x, dtype=np.float64)
        if not np.all((x >= 0) & (x <= 1)):
            raise InputError(f"transform {self.name} takes calibrated rewards in [0, 1]: calibrate the rewards first")
        return x

    def normalised(self, x: ArrayLike) -> Floats:
        """The form whose beta is comparable across t, elementwise. Raises as a call does."""
        return self(x) / self.scale


@dataclass(frozen=True)
class Identity(Transform):
    """x: calibration alone, the optimum of plain sampling."""

    name = "identity"
    formula = "x"
    source = f"{INFALIGN}: the optimum for plain sampling"
    reference_mean = 0.5

    def _printed(self, x: Floats) -> Floats:
        return x

    def from_top(self, u: Floats, s: Floats) -> Floats:
        return -s


@dataclass(frozen=True)
class Log(Transform):
    """log x: the family that best-of-N distillation reaches; minus infinity at 0."""

    name = "log"
    formula = "log x"
    source = f"{INFALIGN}; the same policies as best-of-N distillation (BOND, BoNBoN)"
    reference_mean = -1.0
    domain = "0 < x <= 1"

    def _printed(self, x: Floats) -> Floats:
        if np.any(x == 0):
            raise InputError("log of a calibrated reward of 0 is minus infinity: calibrate with the smoothed form")
        return np.log(x)

    def from_top(self, u: Floats, s: Floats) -> Floats:
        return np.where(s < 0.5, np.log1p(-np.minimum(s, 0.5)), np.log(u))


@dataclass(frozen=True)
class Exponential(Transform):
    """e^(tx) for t > 0 (best-of-N), -e^(tx) for t < 0 (worst-of-N; the sign keeps it increasing)."""

    t: float
    source = f"{INFALIGN}: t > 0 for best-of-N, t < 0 for worst-of-N"

    def __post_init__(self) -> None:
        if not 0 < abs(self.t) <= MAX_EXPONENT:
            raise InputError(
                f"exp:{self.t:g}: the exponent must be from -{MAX_EXPONENT:g} to {MAX_EXPONENT:g} and not 0: give for "
                "example `exp:10`"
            )

    @property
    def name(self) -> str:
        return f"exp:{_shortest(self.t)}"

    @property
    def formula(self) -> str:
        return f"{'-' if self.t < 0 else ''}e^({self.t:g}x)"

    @property
    def reference_mean(self) -> float:
        return math.expm1(self.t) / abs(self.t)

    @property
    def scale(self) -> float:
        return math.exp(max(self.t, 0.0))

    def _printed(self, x: Floats) -> Floats:
        return math.copysign(1.0, self.t) * np.exp(self.t * x)

    def normalised(self, x: ArrayLike) -> Floats:
        return self(x) if self.t < 0 else np.exp(self.t * (self._checked(x) - 1))

    def from_top(self, u: Floats, s: Floats) -> Floats:
        if self.t > 0:
            return np.expm1(-self.t * s)
        return -math.exp(self.t) * np.expm1(-self.t * s)


@dataclass(frozen=True)
class Power(Transform):
    """x^k for k > 0, -(1-x)^(-k) for k < 0: with |k| = 2N-1 the limit of the optimum as KL goes to 0."""

    k: float
    source = "the first-order condition of arXiv 2412.19792 at KL = 0; our derivation"

    def __post_init__(self) -> None:
        if not (1 <= abs(self.k) < math.inf):
            raise InputError(f"power:{self.k:g}: the exponent must be at least 1 in size: give for example `power:7`")

    @property
    def name(self) -> str:
        return f"power:{_shortest(self.k)}"

    @property
    def formula(self) -> str:
        return f"x^{self.k:g}" if self.k > 0 else f"-(1-x)^{-self.k:g}"

    @property
    def reference_mean(self) -> float:
        return math.copysign(1 / (abs(self.k) + 1), self.k)

    def _printed(self, x: Floats) -> Floats:
        return x**self.k if self.k > 0 else -((1 - x) ** -self.k)

    def from_top(self, u: Floats, s: Floats) -> Floats:
        if self.k < 0:
            return -(s**-self.k)
        with np.errstate(divide="ignore"):  # at s = 1 the logarithm is minus infinity, and the result -1
            return np.expm1(self.k * np.log1p(-s))


@dataclass(frozen=True, eq=False)
class Tabulated(Transform):
    """Values at the nodes of a grid, 0 at x = 1, linear in between: how a solver hands over its optimum."""

    grid: Grid
    values: Floats
    """Phi at the nodes, relative to Phi(1): what -int_v^1 g(F) g du gives."""
    name: str = "optimal"
    formula: str = "tabulated"
    source: str = f"{INFALIGN}: -int_x^1 g(F(u)) g(u) du at the optimum"

    def __post_init__(self) -> None:
        if self.values.shape != self.grid.u.shape or not np.all(np.isfinite(self.values)) or self.values[-1] > 0:
            raise InputError(
                f"transform {self.name}: expected {self.grid.u.size} finite values of at most 0, one a node"
            )

    @property
    def smooth(self) -> bool:
        return False

    @property
    def reference_mean(self) -> float:
        return self.grid.integrate(self.values)

    def _printed(self, x: Floats) -> Floats:
        return self.from_top(x, 1 - x)

    def from_top(self, u: Floats, s: Floats) -> Floats:
        if u is self.grid.u:
            return self.values
        low = np.interp(u, self.grid.u, self.values)
        high = np.interp(s, np.append(0.0, self.grid.s[::-1]), np.append(0.0, self.values[::-1]))
        return np.where(s < 0.5, high, low)


@dataclass(frozen=True)
class Optimal:
    """The text `optimal` read, not solved: which function it is depends on procedure and KL (`theory.optimal`)."""

    name = "optimal"


OPTIMAL = Optimal()


def one_shot(procedure: Selection) -> Transform:
    """The limit of the optimal transform as KL goes to 0: x^(2N-1) for best-of-N, -(1-x)^(2N-1) for worst-of-N.

    It is -int_x^1 g(u)^2 du up to scale and a constant. Raises `InputError` for procedures other than these.
    """
    if not isinstance(procedure, OfN):
        raise InputError(f"one-shot has no closed form for {procedure.name}: give `optimal`")
    if procedure.n == 1:
        return Identity()
    return Power(float(2 * procedure.n - 1) if procedure.keeps == "best" else float(1 - 2 * procedure.n))


def parse_transform(text: str, procedure: Selection | None = None) -> Transform | Optimal:
    """A transform from its text form; `one-shot` needs the procedure that it is for.

    `optimal` gives the marker `OPTIMAL`, which a solver resolves. Raises `UnknownName` with a did-you-mean, and
    `InputError` for a missing or unusable number.
    """
    name, _, argument = text.partition(":")
    plain: dict[str, Transform | Optimal] = {"identity": Identity(), "log": Log(), "optimal": OPTIMAL}
    numbered: dict[str, type[Exponential] | type[Power]] = {"exp": Exponential, "power": Power}
    if text in plain:
        return plain[text]
    if text == "one-shot":
        if procedure is None:
            raise InputError("one-shot depends on the procedure: name the procedure too, for example best-of-n:4")
        return one_shot(procedure)
    if name not in numbered:
        hint = did_you_mean(name, ("one-shot", *plain, *numbered))
        raise UnknownName(f"unknown transform {text!r}.{hint} Give one of: {', '.join(FORMS)}.")
    try:
        return numbered[name](float(argument))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"transform {text!r}: expected a number after {name}: give for example `{name}:10`") from error


def _shortest(number: float) -> str:
    """The shortest text that reads back as the same number."""
    return str(int(number)) if number == int(number) else repr(number)
