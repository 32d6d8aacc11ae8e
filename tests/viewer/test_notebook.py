import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from deepviz import Explanation
from deepviz.errors import MissingExtra
from deepviz.geometry import Geometry
from deepviz.methods import GradCAM, Gradient
from deepviz.results.explanation import ExplainedTarget
from deepviz.viewer import compare
from deepviz.viewer import notebook as module

PAGE = """<!doctype html><meta charset="utf-8"><style>{css}</style><div id="cell"></div>
<script type="application/json" id="state">{state}</script><script type="module">
const source = {esm};
const widget = (await import(URL.createObjectURL(new Blob([source], {{ type: "text/javascript" }})))).default;
const state = JSON.parse(document.getElementById("state").textContent);
const listeners = {{}};
globalThis.model = {{
  saved: 0,
  get: (name) => state[name],
  set: (name, value) => {{ state[name] = value; listeners[`change:${{name}}`]?.(); }},
  save_changes() {{ this.saved += 1; }},
  on: (name, call) => (listeners[name] = call),
  off: (name) => delete listeners[name],
}};
globalThis.listeners = listeners;
globalThis.close = await widget.render({{ model, el: document.getElementById("cell") }});
</script>"""


def explanations():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8))
    draw = torch.Generator().manual_seed(0)
    return [
        Explanation(
            attribution=torch.rand((1, 5, 5) if method.coarse else (3, 20, 20), generator=draw),
            image=image,
            geometry=Geometry.whole((40, 30)),
            method=method,
            target=ExplainedTarget(1, "cat", 0.5, 1.0),
            model="net",
            source="cat.png",
        )
        for method in (Gradient(), GradCAM())
    ]


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    module._widget_class.cache_clear()
    with pytest.raises(MissingExtra, match=r"pip install 'deepviz\[notebook\]'"):
        compare(explanations())


def test_nothing_to_compare():
    with pytest.raises(ValueError, match="no explanations"):
        compare([])


def show(widget, visit, tmp_path):
    """The widget's cell in a page of its own."""
    state = {"data": widget.data, "settings": widget.settings}
    page = PAGE.format(css=widget._css, state=json.dumps(state), esm=json.dumps(str(widget._esm)))
    (tmp_path / "cell.html").write_text(page, encoding="utf-8")
    visit.page.goto((tmp_path / "cell.html").as_uri())
    visit.page.wait_for_function("() => globalThis.close")


def test_the_cell_has_a_slider_over_the_frames_of_a_clip(visit, tmp_path):
    pytest.importorskip("anywidget")
    frames = np.zeros((20, 5 * 30, 3), np.uint8)
    frames[:, 3 * 30 : 4 * 30] = (200, 0, 0)
    maps = torch.zeros(3, 5, 20, 30)
    maps[:, 3] = 1.0
    image = Image.fromarray(frames)
    one = replace(explanations()[0], attribution=maps, image=image, geometry=Geometry.whole(image.size))
    show(compare(one, view="image"), visit, tmp_path)
    slider = visit.page.get_by_role("slider", name="Frame, Gradient")
    assert slider.get_attribute("aria-valuetext") == "frame 4 of 5"
    red = "document.querySelectorAll('canvas.dv-canvas')[1].getContext('2d').getImageData(9, 9, 1, 1).data[0]"
    visit.page.wait_for_function(f"() => Math.abs({red} - 200) < 4")
    slider.press("ArrowRight")
    visit.page.wait_for_function(f"() => {red} < 4")


def test_the_cell_shows_the_maps_and_its_controls_are_the_widgets_settings(visit, tmp_path):
    pytest.importorskip("anywidget")
    show(compare(explanations(), opacity=0.5), visit, tmp_path)
    assert visit.page.locator(".dv-tile").count() == 1 + 2
    assert visit.page.get_by_label("Opacity").input_value() == "50"
    visit.page.get_by_label("Opacity").fill("20")
    assert visit.page.evaluate("() => [model.get('settings').opacity, model.saved]") == [0.2, 1]
    visit.page.evaluate("() => model.set('settings', { opacity: 0.7 })")
    assert visit.page.get_by_label("Opacity").input_value() == "70"
    visit.page.evaluate("() => close()")
    assert visit.page.locator(".dv-tile").count() == 0
    assert visit.page.evaluate("() => Object.keys(listeners)") == []
    assert visit.complaints == []
