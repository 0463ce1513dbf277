"""An experiment as a marketer describes it, and the hold-out that all of them share. Validated once, at the door."""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from itertools import pairwise, product
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

BUCKETS: Final = 10_000
"""Of a layer: each visitor is in one of them, each of them belongs to one experiment at most."""

HOLDOUT_ID: Final = "holdout"
"""The hold-out read as an experiment: who is in it, beside who is not."""
TREATED: Final = "treated"
HELD_OUT: Final = "held_out"
VARIANTS_MAX: Final = 64

Id = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$")]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Salt = Annotated[str, Field(max_length=100, pattern=r"^([A-Za-z0-9][A-Za-z0-9_.:-]*)?$")]
Kind = Literal["rate", "number", "money"]


def _moment(value: object) -> object:
    """Return a time with a zone; one without is UTC, a date is its beginning."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"found {value!r}, expected a time such as 2026-11-22T08:00:00Z") from None
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    return value


Moment = Annotated[datetime, BeforeValidator(_moment)]


def _named(value: object) -> object:
    return {"metric": value} if isinstance(value, str) else value


class _Described(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Variant(_Described):
    """What some of the visitors meet. weight: its share of them, relative to the others'. factors: what it is made of,
    factor -> level; every variant of an experiment names the same factors, or none does.
    """

    name: Name
    weight: float = Field(default=1.0, ge=0.0, le=1e9)
    factors: dict[Name, Name] = {}


class Goal(_Described):
    """A metric by which variants are compared. kind: rate = 0 or 1 of each visitor, number = any, money = an amount
    with a heavy tail, cut at `cap_quantile` of the amounts above 0 (1 = not cut). better: which direction is.
    """

    metric: Name
    kind: Kind = "number"
    better: Literal["higher", "lower"] = "higher"
    cap_quantile: float = Field(default=0.99, gt=0.5, le=1.0)


Goals = Annotated[list[Annotated[Goal, BeforeValidator(_named)]], Field(max_length=50)]


class Experiment(_Described):
    """A test of variants against a control.

    layer: a visitor is in one experiment of a layer at most; experiments of different layers cross. placements: where
    it runs; none = everywhere. control: a variant's name; "" = the first. factors: factor -> levels, instead of
    variants: every combination is one. share: of the layer's visitors. buckets: ranges [from, to) of the layer's, as
    `allot` gives them; it keeps what it once had. salt: of the choice of variant; "" = the id. starts, ends: from
    (included) to (left out). covariates: known of a visitor before he was exposed, for CUPED. segments: by which the
    first goal is looked at, too. expected_visitors: at about so many the intervals are narrowest; fixed beforehand.
    """

    id: Id
    layer: Id = "main"
    placements: list[Name] = []
    factors: dict[Name, Annotated[list[Name], Field(min_length=2)]] = {}
    variants: list[Variant] = Field(default=[], max_length=VARIANTS_MAX, validate_default=True)
    control: str = Field(default="", validate_default=True)
    share: float = Field(default=1.0, gt=0.0, le=1.0)
    buckets: list[tuple[int, int]] = []
    salt: Salt = ""
    goals: Goals = []
    starts: Moment | None = None
    ends: Moment | None = None
    covariates: list[Name] = []
    segments: list[Name] = []
    expected_visitors: int = Field(default=10_000, ge=100, le=10**9)

    @field_validator("buckets", mode="before")
    @classmethod
    def _as_pairs(cls, value: Any) -> Any:
        """JSON and YAML have lists where we have pairs."""
        return [tuple(one) if isinstance(one, list) else one for one in value] if isinstance(value, list) else value

    @field_validator("buckets")
    @classmethod
    def _lie_in_the_layer(cls, value: list[tuple[int, int]]) -> list[tuple[int, int]]:
        ends = [end for pair in value for end in pair]
        if any(one < 0 or one > BUCKETS for one in ends) or any(low >= high for low, high in pairwise(ends)):
            raise ValueError(f"found {value}, expected ranges [from, to) within 0 and {BUCKETS}, in order and apart")
        return value

    @field_validator("goals")
    @classmethod
    def _name_each_metric_once(cls, value: list[Goal]) -> list[Goal]:
        _only_once([goal.metric for goal in value])
        return value

    @model_validator(mode="before")
    @classmethod
    def _combines_factors(cls, given: Any) -> Any:
        """Make the variants of a full factorial from its factors."""
        if not isinstance(given, dict) or not isinstance(given.get("factors"), dict) or not given["factors"]:
            return given
        factors = given["factors"]
        lists = all(isinstance(levels, list) and levels for levels in factors.values())
        if given.get("variants") or not lists:
            return given
        count = 1
        for levels in factors.values():
            count *= len(levels)
        if count > VARIANTS_MAX:
            raise ValueError(f"the factors have {count:,} combinations, expected {VARIANTS_MAX} at most")
        return given | {"variants": [variant.model_dump() for variant in combinations(factors)]}

    @field_validator("variants")
    @classmethod
    def _can_be_compared(cls, value: list[Variant], info: ValidationInfo) -> list[Variant]:
        names = [variant.name for variant in value]
        if info.data.get("id") == HOLDOUT_ID and set(names) != {HELD_OUT, TREATED}:
            raise ValueError(f"{HOLDOUT_ID!r} has {HELD_OUT} and {TREATED}, expected another id for other variants")
        if len(names) < 2:
            raise ValueError(f"found {len(names)}, expected 2 at least (or `factors` with their levels)")
        _only_once(names)
        if not any(variant.weight for variant in value):
            raise ValueError("the weights sum to 0, expected more: nobody could be given a variant")
        _same_factors(value, info.data.get("factors") or {})
        return value

    @field_validator("control")
    @classmethod
    def _is_a_variant(cls, value: str, info: ValidationInfo) -> str:
        variants: list[Variant] = info.data.get("variants") or []
        weights = {variant.name: variant.weight for variant in variants}
        if value and weights and value not in weights:
            raise ValueError(f"found {value!r}, expected one of {', '.join(weights)}")
        name = value or next(iter(weights), "")
        if weights and weights[name] <= 0.0:
            raise ValueError(f"{name!r} has weight 0, expected more: there would be nothing to compare with")
        return value

    @field_validator("ends")
    @classmethod
    def _is_after_the_start(cls, value: datetime | None, info: ValidationInfo) -> datetime | None:
        starts = info.data.get("starts")
        if value and starts and value <= starts:
            raise ValueError(f"found {value.isoformat()}, expected later than the start, {starts.isoformat()}")
        return value

    @property
    def baseline(self) -> str:
        """Name of the variant that the others are compared with."""
        return self.control or self.variants[0].name

    @property
    def shares(self) -> dict[str, float]:
        """Each variant's share of the experiment's visitors, by name; they sum to 1."""
        whole = sum(variant.weight for variant in self.variants)
        return {variant.name: variant.weight / whole for variant in self.variants}


class Holdout(_Described):
    """Visitors who meet no experiment and no policy, so that what all of it together brings can be measured.

    share: of all visitors. salt: its own, so that it is independent of every layer; another one draws others.
    """

    share: float = Field(default=0.05, ge=0.0, lt=1.0)
    salt: Id = HOLDOUT_ID

    def experiment(self, goals: Goals, **more: Any) -> Experiment:
        """Return it as an experiment to analyse: the treated against the held out. more: as of Experiment."""
        variants = [Variant(name=HELD_OUT, weight=self.share), Variant(name=TREATED, weight=1.0 - self.share)]
        return Experiment(id=HOLDOUT_ID, variants=variants, goals=goals, **more)


def combinations(factors: Mapping[str, list[str]]) -> Iterator[Variant]:
    """Yield a variant for each combination of levels, equally weighed, the first levels first.

    factors: factor -> levels. A name such as `headline=short, image=dog` says what it is made of.
    """
    for levels in product(*factors.values()):
        made = {str(name): str(level) for name, level in zip(factors, levels, strict=True)}
        yield Variant(name=", ".join(f"{name}={level}" for name, level in made.items()), factors=made)


def _only_once(names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} stands there {names.count(name)} times, expected once")


def _same_factors(variants: list[Variant], levels: Mapping[str, list[str]]) -> None:
    first = variants[0]
    for variant in variants:
        if set(variant.factors) != set(first.factors):
            raise ValueError(
                f"{variant.name!r} has the factors {', '.join(variant.factors) or 'none'}, expected those of "
                f"{first.name!r}: {', '.join(first.factors) or 'none'}"
            )
        for name, level in variant.factors.items():
            if levels and level not in levels.get(name, ()):
                known = ", ".join(levels.get(name, ())) or "none: it is no factor"
                raise ValueError(f"{variant.name!r} has {name}={level}, expected one of {known}")
