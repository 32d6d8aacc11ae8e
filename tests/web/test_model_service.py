"""What is kept, and under which name."""

import pytest
import torch

import small_models
from deepviz import catalog
from deepviz.models import LoadedModel
from deepviz.web.image_store import ImageStore
from deepviz.web.limits import Limits
from deepviz.web.model_service import Busy, LRUCache, ModelService, ids_of


def test_the_least_recently_used_is_forgotten_first():
    kept = LRUCache(10, len)
    for key in "abc":
        kept.put(key, "xxx")
    assert kept.get("a") == "xxx"
    kept.put("d", "xxxx")
    assert [kept.get(key) for key in "abcd"] == ["xxx", None, "xxx", "xxxx"]
    kept.put("a", "x")
    kept.put("e", "xx")
    assert len(kept) == 4, "a value that is replaced costs what it costs now"


def test_what_alone_is_too_much_is_kept_until_the_next():
    kept = LRUCache(1, len)
    kept.put("a", "xxx")
    assert kept.get("a") == "xxx"
    kept.put("b", "xxx")
    assert kept.get("a") is None


def test_what_is_dropped_makes_room():
    kept = LRUCache(2)
    kept.put("a", 1)
    kept.put("b", 2)
    kept.drop(lambda key, _: key == "a")
    kept.put("c", 3)
    assert [kept.get(key) for key in "abc"] == [None, 2, 3]


def named(*names):
    return [LoadedModel(torch.nn.Identity(), name) for name in names]


def test_every_model_has_an_id_of_its_own_that_an_address_can_hold():
    assert ids_of(named("resnet50", "resnet50", "Résumé/../x", "???", "x" * 90)) == [
        "resnet50",
        "resnet50-2",
        "r-sum-x",
        "model",
        "x" * 48,
    ]


def service(model, **limits):
    bounds = Limits(**limits)
    return ModelService("small", model, ImageStore(bounds, lambda _: None), LRUCache(10**9), bounds)


def test_so_many_wait_and_no_more():
    small = service(small_models.good(), waiting=1)
    with small.admitted():
        with pytest.raises(Busy, match="small is busy"), small.admitted():
            pass
        small.forget("anything")
    with small.admitted():
        pass


@pytest.mark.filterwarnings("ignore::deepviz.DeepVizWarning")
def test_every_method_that_does_not_apply_has_its_reason():
    attention = set(small_models.ATTENTION)
    reasons = service(small_models.good()).reasons()
    assert set(reasons) == attention | {"cam"}
    assert all("no attention on the image" in reasons[name] for name in attention)
    assert "one linear layer" in reasons["cam"]
    assert not set(service(small_models.transformer()).reasons()) & attention
    reasons = service(small_models.no_rectifier()).reasons()
    assert set(reasons) >= {"guided-backprop", "deconvolution", "guided-grad-cam", "guided"} | attention
    assert "gradient" not in reasons
    assert set(service(small_models.failing()).reasons()) == set(catalog.METHODS)
