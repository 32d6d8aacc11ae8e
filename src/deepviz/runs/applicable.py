"""Which methods apply to a model, tried on one image."""

from __future__ import annotations

from deepviz import catalog
from deepviz.errors import DeepVizError
from deepviz.methods import Method
from deepviz.models import LoadedModel
from deepviz.runs.asked import Item
from deepviz.runs.explain import explain_items


def inapplicable(loaded: LoadedModel, item: Item) -> dict[str, str]:
    """Of each method of the catalog that does not apply to this model, by name: why.

    Of methods that need the same of a model, the cheapest is tried for all.
    """
    alike: dict[object, dict[str, Method]] = {}
    for name, cls in catalog.METHODS.items():
        method = catalog.cheapest(cls)
        alike.setdefault((method.requires, method.spatial_axes), {})[name] = method
    found = {}
    for methods in alike.values():
        cheapest = min(methods.values(), key=lambda method: method.passes())
        reason = _why_not(loaded, item, cheapest)
        if reason:
            found.update(dict.fromkeys(methods, reason))
    return {name: found[name] for name in catalog.METHODS if name in found}


def _why_not(loaded: LoadedModel, item: Item, method: Method) -> str:
    try:
        (found,) = explain_items(loaded, [item], [method], lenient=True, needed=False)
    except DeepVizError as error:
        return str(error)
    return next((one.reason for one in found.missing), "")
