"""What Inspect finds through its entry point: the task `inferalign/human_agency` and the models `inferalign/...`.

Inspect loads every installed package's entry point at its start, so that the provider's class, with the engines under
it, is imported when a model of ours is named.
"""

from __future__ import annotations

from inspect_ai.model import ModelAPI, modelapi

from inferalign.agency.tasks import human_agency

__all__ = ["human_agency", "provider"]


@modelapi(name="inferalign")  # type: ignore[untyped-decorator]  # inspect_ai is untyped here
def provider() -> type[ModelAPI]:
    from inferalign.agency.inspect_provider import InferalignAPI

    return InferalignAPI
