"""What `agency build` was asked: read, checked before anything is paid for, and what decides each stage's records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from inferalign.agency.dimension import Dimension, load_shipped
from inferalign.agency.estimate import Forecast, forecast_build
from inferalign.agency.item_source import load_dimensions
from inferalign.agency.judge import hashes
from inferalign.agency.models import check_served
from inferalign.agency.requests import BuildRequest, EndpointFlags
from inferalign.agency.simulate import GenerationCall, SimulateSettings, own_examples, plan_call, shipped_themes
from inferalign.agency.validate import ValidateSettings
from inferalign.core.config import to_dict
from inferalign.core.errors import InputError
from inferalign.core.jobs import check_concurrency
from inferalign.engines.remote_ledger import Ledger
from inferalign.engines.remote_names import is_remote

GENERATOR, VALIDATOR = "generator", "validator"
CALLS, VALIDATIONS, SECOND = "calls", "validations", "second"


@dataclass(frozen=True, kw_only=True)
class PreparedBuild:
    """A request that was read and found possible."""

    request: BuildRequest
    endpoint: EndpointFlags
    generator: str
    """As the user named it; once it is open, by its own name. So are the validators."""
    validator: str
    second: str | None
    """A second validator."""
    dimensions: Mapping[str, Dimension]
    calls: tuple[GenerationCall, ...]
    simulating: SimulateSettings
    validating: ValidateSettings
    ledger: Ledger

    def describe(self) -> dict[str, Any]:
        """What decides the items."""
        request = self.request
        names = ("simulate", "keep", "select", "min_score", "embed", "seed", "second_share")
        return self.decides(SECOND) | {name: getattr(request, name) for name in names}

    def decides(self, stage: str) -> dict[str, Any]:
        """What decides the records of a stage. Not how many calls there are: call 17 is the same among 20 and 200."""
        made = {
            "kind": "agency-build",
            "dimensions": hashes(self.dimensions),
            "generator": self.generator,
            "simulating": to_dict(self.simulating),
        }
        if stage == CALLS:
            return made
        checked = made | {"validator": self.validator, "validating": to_dict(self.validating)}
        return checked if stage == VALIDATIONS else checked | {"second_validator": self.second}

    def validations(self, messages: int) -> int:
        """How many there are at most, of so many messages: by both validators."""
        return messages + (0 if self.second is None else round(self.request.second_share * messages))

    def forecast(self) -> list[Forecast]:
        """Raises `InputError` where there is a budget and no price."""
        request = self.request
        validators = {self.validator: 1.0}
        if self.second is not None:
            validators[self.second] = request.second_share
        return forecast_build(
            self.calls,
            self.dimensions,
            generator=self.generator,
            validators=validators,
            embedder=request.embed if is_remote(request.embed) else None,
            most=(self.simulating.max_tokens, self.validating.max_tokens),
            ledger=self.endpoint.ledger(),
        )


def prepare_build(request: BuildRequest, endpoint: EndpointFlags | None = None) -> PreparedBuild:
    """Raises `InputError` for whatever can be known to be wrong before anything is asked."""
    endpoint = endpoint or EndpointFlags()
    for role, name in ((GENERATOR, request.generator), (VALIDATOR, request.validator)):
        if name is None:
            raise InputError(f"no {role}: name one with --{role} MODEL@URL")
        check_served(name)
    if request.second_validator is not None:
        check_served(request.second_validator)
        check_another(request.second_validator, str(request.validator))
    if not 0.0 < request.second_share <= 1.0:
        raise InputError(f"--second-share {request.second_share:g}: give a share above 0, at most 1, such as 0.1")
    for flag, count in (("simulate", request.simulate), ("keep", request.keep), ("select", request.select)):
        if count is not None and count < 1:
            raise InputError(f"--{flag} {count}: give at least 1")
    if request.select > (request.keep or request.simulate):
        raise InputError(
            f"--select {request.select} of {request.keep or request.simulate} messages: simulate (and keep) more, or "
            "select fewer"
        )
    check_concurrency(endpoint.concurrency)
    dimensions = load_dimensions(request.dimension) if request.dimension else load_shipped()
    for dimension in dimensions.values():
        start = dimension.validate.start
        if not 0 <= (request.min_score or 0) <= start:
            raise InputError(f"--min-score {request.min_score}: messages of {dimension.id} have 0 to {start} points")
    schema, plain = not endpoint.free_form, endpoint.server_sampling
    validating = ValidateSettings(json_schema=schema)
    if VALIDATOR in plain:
        validating = replace(validating, temperature=None, top_p=None)
    simulating = SimulateSettings(seed=request.seed, json_schema=schema)
    if GENERATOR in plain:
        # Such models reason out of sight, within the same limit: that of messages alone would leave them no word.
        simulating = replace(simulating, temperature=None, top_p=None, max_tokens=validating.max_tokens)
    themes = shipped_themes()
    return PreparedBuild(
        request=request,
        endpoint=endpoint,
        generator=str(request.generator),
        validator=str(request.validator),
        second=request.second_validator,
        dimensions=dimensions,
        calls=tuple(
            plan_call(dimension, simulating, index, themes=themes, examples=own_examples(dimension))
            for dimension in dimensions.values()
            for index in range(-(-request.simulate // dimension.generate.per_call))
        ),
        simulating=simulating,
        validating=validating,
        ledger=endpoint.ledger(),
    )


def check_another(second: str, validator: str) -> None:
    """Raises `InputError` for a second validator that is the first."""
    if second == validator:
        raise InputError(f"--second-validator {second} is the validator itself: name another model")
