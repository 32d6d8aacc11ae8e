"""Models that take more than one tensor: what goes along stays with its row, or is refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import deepviz
from cases.oracles import (
    ALL,
    gradient,
    images,
    noisy_gradient,
    on_kinds,
    path_gradient,
    right_or_refused,
    rows_alone,
    seeded,
    value,
)
from deepviz.errors import DeepVizError, ModelError
from deepviz.methods import GradCAM, Gradient, GradTimesImage, GuidedBackprop, IntegratedGradients, SmoothGrad
from networks import assert_same

pytestmark = pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
every_method = pytest.mark.parametrize("method", ALL.values(), ids=ALL.keys())
ROWS = 9
"""More than one chunk, and not a multiple of one."""
WRONG = (DeepVizError, ValueError, TypeError)


class TwoInputs(nn.Module):
    """A picture and a row of a table: the table decides what in the picture counts."""

    def __init__(self, entries=4, classes=3):
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(6 + entries, 12), nn.ReLU(), nn.Linear(12, classes))

    def forward(self, image, table):
        return self.head(torch.cat([self.cnn(image).mean((2, 3)), table], 1))


class Fixed(nn.Module):
    """A model with one row of side information for every row that arrives."""

    def __init__(self, net, row):
        super().__init__()
        self.net, self.row = net, row

    def forward(self, image):
        return self.net(image, self.row.expand(len(image), *self.row.shape[1:]))


def setting(n=ROWS, build=TwoInputs):
    return seeded(build), images(n, 3, 8, 8), 3 * images(n, 4, seed=2)


def each_alone(method, net, x, table, target=1):
    return rows_alone(lambda row: method(Fixed(net, table[row : row + 1]), x[row : row + 1], target), range(len(x)))


@every_method
@pytest.mark.parametrize("given", ["tuple", "mapping"])
def test_what_goes_along_is_carried_with_its_row(method, given):
    net, x, table = setting()
    extra = (table,) if given == "tuple" else {"table": table}
    assert_same(method(net, x, 1, extra=extra), each_alone(method, net, x, table))


@every_method
def test_the_predicted_class_is_that_of_the_row_with_its_own_side_information(method):
    net, x, table = setting(5)
    found = method.attribute(net, x, extra=(table,))
    assert torch.equal(found.classes, net(x, table).argmax(1))
    assert len(found.classes.unique()) > 1
    assert_same(found.maps, each_alone(method, net, x, table, None))


def test_the_gradient_is_autograd_s():
    net, x, table = setting()
    assert_same(Gradient()(net, x, 1, extra=(table,)), gradient(lambda z: net(z, table)[:, 1], x))
    assert_same(GradTimesImage()(net, x, 1, extra=(table,)), x * gradient(lambda z: net(z, table)[:, 1], x))


def test_every_point_of_a_path_has_the_side_information_of_its_row():
    net, x, table = setting(3)
    found = IntegratedGradients(steps=21)(net, x, 1, extra=(table,))
    expected = rows_alone(
        lambda row: path_gradient(lambda z: net(z, table[row : row + 1])[:, 1], x[row : row + 1], 21), range(3)
    )
    assert_same(found, expected)


def test_every_noisy_copy_has_the_side_information_of_its_row():
    net, x, table = setting(3)
    found = SmoothGrad(samples=11)(net, x, 1, extra=(table,))
    expected = rows_alone(
        lambda row: noisy_gradient(lambda z: net(z, table[row : row + 1])[:, 1], x[row : row + 1], 11), range(3)
    )
    assert_same(found, expected)


def test_a_path_to_a_tolerance_keeps_the_rows_apart_for_several_classes():
    net, x, table = setting(3)
    method, classes = IntegratedGradients(tolerance=0.05, max_steps=60), torch.tensor([[0, 2]]).expand(3, 2)
    found = method(net, x, classes, extra=(table,))
    for k in range(2):
        assert_same(found[:, k], each_alone(method, net, x, table, int(classes[0, k])))


def test_one_class_for_each_row_goes_with_the_side_information():
    net, x, table = setting()
    target = torch.arange(ROWS) % 3
    expected = gradient(lambda z: net(z, table).gather(1, target[:, None])[:, 0], x)
    assert_same(Gradient()(net, x, target, extra=(table,)), expected)


@every_method
def test_a_callable_sees_the_output_of_the_rows_with_their_side_information(method):
    net, x, table = setting(5)

    def difference(output):
        return output[:, 1] - output[:, 0]

    assert_same(method(net, x, difference, extra=(table,)), each_alone(method, net, x, table, difference))


class WithCamera(nn.Module):
    """Colours turned by a matrix that all rows share, and scaled by a number."""

    def __init__(self):
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.head = nn.Linear(4, 3)

    def forward(self, image, camera, scale=1.0, *, flag=False):
        turned = torch.einsum("nchw,cd->ndhw", image, camera) * scale
        return self.head(self.cnn(-turned if flag else turned).mean((2, 3)))


CAMERA = images(1, 3, 3, seed=5)[0]


@every_method
def test_what_is_shared_goes_to_every_row(method):
    net, x = seeded(WithCamera), images(5, 3, 8, 8)

    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, z):
            return net(z, CAMERA, 2.0, flag=True)

    found = method(net, x, 1, extra={"camera": deepviz.shared(CAMERA), "scale": 2.0, "flag": True})
    assert_same(found, method(Turned().eval(), x, 1))


def test_what_has_no_rank_goes_as_it_is():
    net, x = seeded(WithCamera), images(3, 3, 8, 8)
    expected = gradient(lambda z: net(z, CAMERA, 2.0)[:, 1], x)
    for scale in (2.0, 2, torch.tensor(2.0)):
        assert_same(Gradient()(net, x, 1, extra=(deepviz.shared(CAMERA), scale)), expected)


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_a_tensor_that_is_neither_by_row_nor_shared_is_an_error_that_names_both(n):
    with pytest.raises(WRONG, match=r"(?s)extra.*shared|shared.*extra"):
        Gradient()(seeded(WithCamera), images(n, 3, 8, 8), 1, extra=(CAMERA,))


class Summed(WithCamera):
    """Which takes of the matrix what has no size of its own, so that nothing fails."""

    def forward(self, image, camera):
        return self.head(self.cnn(image).mean((2, 3)) * camera.square().sum())


@every_method
@pytest.mark.parametrize("n", [2, 3])
def test_a_matrix_of_which_a_sum_is_taken_does_not_become_per_row_either(method, n):
    net, x = seeded(Summed), images(n, 3, 8, 8)
    with pytest.raises(ModelError, match=r"rows of extra= beside its own.*deepviz\.shared"):
        method(net, x, 1, extra=(CAMERA[:n],))


def test_one_image_may_have_a_row_of_which_a_sum_is_taken():
    net, x = seeded(Summed), images(1, 3, 8, 8)
    expected = gradient(lambda z: net(z, CAMERA[:1])[:, 1], x)
    assert_same(Gradient()(net, x, 1, extra=(CAMERA[:1],)), expected)


@every_method
def test_a_matrix_does_not_become_per_row_because_there_are_as_many_images(method):
    net, x = seeded(WithCamera), images(3, 3, 8, 8)
    expected = method(net, x, 1, extra=(deepviz.shared(CAMERA),))
    right_or_refused(lambda: method(net, x, 1, extra=(CAMERA,)), expected)


@pytest.mark.parametrize("rows", [1, 3, 5, 8])
def test_another_number_of_rows_is_an_error_that_says_so(rows):
    net, x, _ = setting(4)
    with pytest.raises(WRONG, match=rf"(?s)extra.*\b{rows}\b") as told:
        Gradient()(net, x, 1, extra=(torch.rand(rows, 4),))
    assert "4" in str(told.value)


def test_a_name_that_the_model_does_not_take_is_the_models_error():
    net, x, table = setting(2)
    with pytest.raises(WRONG, match="tabel"):
        Gradient()(net, x, 1, extra={"tabel": table})


def test_a_model_that_lacks_its_side_information_is_an_error_that_names_extra():
    net, x, _ = setting(2)
    with pytest.raises(DeepVizError, match="extra"):
        Gradient()(net, x, 1)


def test_whole_numbers_and_flags_are_carried_by_row_too():
    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.kinds, self.head = nn.Conv2d(3, 6, 3), nn.Embedding(5, 6), nn.Linear(6, 3)

        def forward(self, image, kind, mirrored):
            h = self.conv(torch.where(mirrored[:, None, None, None], image.flip(3), image)).relu().mean((2, 3))
            return self.head(h * self.kinds(kind))

    net, x = seeded(Conditional), images(ROWS, 3, 8, 8)
    kind, mirrored = torch.arange(ROWS) % 5, torch.arange(ROWS) % 2 == 0
    expected = gradient(lambda z: net(z, kind, mirrored)[:, 2], x)
    assert_same(Gradient()(net, x, 2, extra=(kind, mirrored)), expected)
    assert_same(
        IntegratedGradients(steps=5)(net, x, 2, extra=(kind, mirrored))[3:4],
        path_gradient(lambda z: net(z, kind[3:4], mirrored[3:4])[:, 2], x[3:4], 5),
    )


def test_what_goes_along_is_given_back_as_it_was():
    class Careless(TwoInputs):
        def forward(self, image, table):
            return super().forward(image, table.mul_(0.5).add_(1))

    net, x, table = setting(4, Careless)
    before = table.clone()
    first = [method(net, x, 1, extra=(table,)) for method in ALL.values()]
    assert torch.equal(table, before)
    assert all(
        torch.equal(method(net, x, 1, extra=(table,)), maps) for method, maps in zip(ALL.values(), first, strict=True)
    )


def test_explain_carries_what_goes_along_through_images_of_several_sizes():
    net, table = seeded(TwoInputs), 3 * images(11, 4, seed=2)
    queue = [images(1, 3, 8, 8 if row < 10 else 12, seed=row)[0] for row in range(11)]
    found = deepviz.explain(net, queue, ["gradient", GradCAM("cnn.3", relu=False)], extra=(table,), target=1)
    assert len(found) == 22
    for row, image in enumerate(queue):
        alone = Fixed(net, table[row : row + 1]).double()
        assert_same(found[2 * row].attribution, Gradient()(alone, image[None], 1)[0].float(), 1e-5)
        expected = GradCAM("net.cnn.3", relu=False)(alone, image[None], 1)[0].float()
        assert_same(found[2 * row + 1].attribution, expected, 1e-5)
        assert found[2 * row].target.score == pytest.approx(value(alone(image[None])[0, 1]), rel=1e-5)


@pytest.mark.parametrize("extra", [(torch.rand(2, 4),), {"table": torch.rand(4, 4)}, {"table": torch.rand(1, 4)}])
def test_explain_refuses_another_number_of_rows(extra):
    net, x, _ = setting(3)
    with pytest.raises(WRONG, match="extra"):
        deepviz.explain(net, x, "gradient", target=1, extra=extra)


def test_curves_are_of_the_image_with_its_own_side_information():
    net, x, table = setting(3)
    metric = deepviz.metrics.Deletion(steps=4)
    together = deepviz.evaluate(net, x, ["gradient"], metric, extra=(table,), target=1, controls=False)
    for row in range(3):
        alone = deepviz.evaluate(
            Fixed(net, table[row : row + 1]), x[row : row + 1], ["gradient"], metric, target=1, controls=False
        )
        np.testing.assert_allclose(together.values[row], alone.values[0], rtol=1e-5)


def test_every_metric_can_carry_side_information():
    net, x, table = setting(2)
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[2:5, 2:5] = True
    for cls in deepviz.catalog.METRICS.values():
        names = {option.name for option in deepviz.catalog.options(cls)}
        metric = cls(**({"inside": region} if "inside" in names else {}))
        together = deepviz.evaluate(net, x, ["gradient"], metric, extra=(table,), target=1, controls=False)
        alone = Fixed(net, table[1:])
        expected = deepviz.evaluate(alone, x[1:], ["gradient"], metric, target=1, controls=False)
        np.testing.assert_allclose(together.values[1], expected.values[0], rtol=1e-5, err_msg=cls.__name__)


def test_the_randomisation_test_keeps_the_side_information_of_each_image():
    net, x, table = setting(2)
    together = deepviz.sanity_check(net, x, ["gradient"], stages=2, target=1, extra=(table,))
    for row in range(2):
        alone = deepviz.sanity_check(Fixed(net, table[row : row + 1]), x[row : row + 1], "gradient", stages=2, target=1)
        np.testing.assert_allclose(together.similarities["ssim"][row], alone.similarities["ssim"][0], atol=1e-5)


class Kept(nn.Module):
    """Side information is kept on the module, in the ways in which people keep it."""

    def __init__(self, how, net, table):
        super().__init__()
        self.how, self.net = how, net
        if how == "buffer":
            self.register_buffer("table", table)
        else:
            self.table = table

    def forward(self, image):
        n, table = len(image), self.table
        if self.how == "added":
            return self.net(image, torch.zeros(n, 4, dtype=image.dtype)) + table[:, :3]
        if self.how == "multiplied":
            return self.net(image, table.new_ones(n, 4)) * table[:, :3]
        if self.how == "first rows":
            table = table[:n]
        elif self.how == "by position":
            table = table[torch.arange(n)]
        elif self.how == "repeated":
            table = table.repeat(-(-n // len(table)), 1)[:n]
        elif self.how == "last rows":
            table = table[-n:]
        return self.net(image, table)


HOWS = ["attribute", "first rows", "buffer", "added", "multiplied", "by position", "repeated", "last rows"]


@on_kinds("how", HOWS)
@pytest.mark.parametrize("n", [3, 5])
def test_side_information_kept_on_a_module_is_right_or_refused(method, how, n):
    net, x, table = setting(n)
    target = 1 if n == 3 else None
    right_or_refused(
        lambda: method(Kept(how, net, table).eval(), x, target),
        kept_one_by_one(how, method, net, x, table, target),
        names="extra",
    )


def kept_one_by_one(how, method, net, x, table, target):
    """Each image with its own row, on a network that adds or takes that row whatever the number of copies."""

    class Alone(nn.Module):
        def __init__(self, row):
            super().__init__()
            self.net, self.row = net, table[row : row + 1]

        def forward(self, image):
            n = len(image)
            row = self.row.expand(n, -1)
            if how == "added":
                return self.net(image, torch.zeros(n, 4, dtype=image.dtype)) + row[:, :3]
            if how == "multiplied":
                return self.net(image, row.new_ones(n, 4)) * row[:, :3]
            return self.net(image, row)

    return rows_alone(lambda row: method(Alone(row).eval(), x[row : row + 1], target), range(len(x)))


@on_kinds("how", ["attribute", "buffer", "added", "first rows", "repeated"])
def test_one_image_with_one_row_kept_on_the_module_is_explained(method, how):
    """Path points and noisy copies are that image: a model that takes exactly one goes one at a time."""
    net, x, table = setting(1)
    expected = kept_one_by_one(how, method, net, x, table, 1)
    assert_same(method(Kept(how, net, table).eval(), x, 1), expected)


@every_method
def test_one_row_expanded_to_the_rows_that_arrive_is_explained(method):
    net, x, table = setting(3)
    expected = method(net, x, 1, extra=(table[:1].expand(3, -1),))
    assert_same(method(Fixed(net, table[:1]), x, 1), expected)


@pytest.mark.parametrize("how", ["attribute", "first rows", "by position"])
def test_explain_evaluate_and_sanity_check_are_right_about_kept_side_information_or_refuse(how):
    net, x, table = setting(3)
    model, metric = Kept(how, net, table).eval(), deepviz.metrics.Deletion(steps=3)

    def explained(model, **extra):
        return torch.stack([one.attribution for one in deepviz.explain(model, x, "gradient", target=1, **extra)])

    def judged(model, **extra):
        return deepviz.evaluate(model, x, "gradient", metric, target=1, controls=False, **extra).values

    def randomised(model, **extra):
        return deepviz.sanity_check(model, x, "gradient", stages=1, target=1, **extra).similarities["ssim"]

    for ask in (explained, judged, randomised):
        right_or_refused(lambda ask=ask: ask(model), ask(net, extra=(table,)), 1e-5, names="extra")


def embedding():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 8),
    )  # fmt: skip


CLOSURES = {
    "cosine": lambda out, ref: F.cosine_similarity(out, ref, dim=1),
    "product": lambda out, ref: (out * ref).sum(1),
    "first rows": lambda out, ref: (out * ref[: len(out)]).sum(1),
    "distance": lambda out, ref: -(out - ref).square().sum(1),
    "by class": lambda out, ref: out[torch.arange(len(out)), ref.argmax(1)[: len(out)]],
}


@on_kinds("how", CLOSURES)
def test_a_reference_for_each_row_in_a_callable_is_right_or_refused(method, how):
    net, a = seeded(embedding), images(5, 3, 8, 8)
    ref, score = net(images(5, 3, 8, 8, seed=7)).detach(), CLOSURES[how]
    expected = rows_alone(
        lambda row: method(net, a[row : row + 1], lambda out: score(out, ref[row : row + 1].expand(len(out), -1))),
        range(5),
    )
    right_or_refused(lambda: method(net, a, lambda out: score(out, ref)), expected, names=r"extra|Similarity")


@every_method
def test_one_reference_for_all_rows_in_a_callable_is_explained(method):
    net, a = seeded(embedding), images(5, 3, 8, 8)
    ref = net(images(1, 3, 8, 8, seed=7)).detach()
    found = method(net, a, lambda out: F.cosine_similarity(out, ref, dim=1))
    expected = rows_alone(
        lambda row: method(net, a[row : row + 1], lambda out: F.cosine_similarity(out, ref, dim=1)), range(5)
    )
    assert_same(found, expected)


class Pair(nn.Module):
    """Two pictures of unlike sizes; both are explained."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, left, right):
        return self.head(self.left(left).relu().mean((2, 3)) * self.right(right).relu().mean((2, 3)))


def test_every_tensor_of_a_pair_is_explained_in_the_structure_that_was_given():
    net, a, b = seeded(Pair), images(ROWS, 3, 8, 8), images(ROWS, 1, 6, 10)
    left = gradient(lambda z: net(z, b)[:, 1], a)
    right = gradient(lambda z: net(a, z)[:, 1], b)
    found = Gradient()(net, (a, b), 1)
    assert isinstance(found, tuple)
    assert_same(found[0], left)
    assert_same(found[1], right)
    found = Gradient()(net, {"left": a, "right": b}, 1)
    assert set(found) == {"left", "right"}
    assert_same(found["left"], left)
    assert_same(found["right"], right)


def test_integrated_gradients_of_a_pair_share_out_the_whole_change():
    net, a, b = seeded(Pair), images(3, 3, 8, 8), images(3, 1, 6, 10)
    found = IntegratedGradients(steps=200)(net, (a, b), 1)
    change = (net(a, b) - net(0 * a, 0 * b))[:, 1]
    total = found[0].sum((1, 2, 3)) + found[1].sum((1, 2, 3))
    assert_same(total, change.detach(), 2e-2)


def test_the_noise_of_a_pair_is_by_each_tensors_own_range():
    net, a, b = seeded(Pair), images(1, 3, 8, 8), 1000 * images(1, 1, 6, 10)
    small = SmoothGrad(samples=40)(net, (a, b / 1000), 1)
    large = SmoothGrad(samples=40)(Scaled(net), (a, b), 1)
    assert_same(large[0], small[0], 1e-9)
    assert_same(1000 * large[1], small[1], 1e-9)


class Scaled(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, left, right):
        return self.net(left, right / 1000)


def test_a_table_among_the_inputs_has_a_gradient_of_its_own():
    net, x, table = setting(4)
    picture, entries = Gradient()(net, (x, table), 1)
    assert_same(picture, gradient(lambda z: net(z, table)[:, 1], x))
    assert_same(entries, gradient(lambda z: net(x, z)[:, 1], table))
    picture, entries = IntegratedGradients(steps=100)(net, (x, table), 1)
    change = (net(x, table) - net(0 * x, 0 * table))[:, 1].detach()
    assert_same(picture.sum((1, 2, 3)) + entries.sum(1), change, 5e-2)


def test_whole_numbers_among_the_inputs_are_carried_not_explained():
    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.kinds, self.head = nn.Conv2d(3, 6, 3), nn.Embedding(5, 6), nn.Linear(6, 3)

        def forward(self, image, kind):
            return self.head(self.conv(image).relu().mean((2, 3)) * self.kinds(kind))

    net, x, kind = seeded(Conditional), images(ROWS, 3, 8, 8), torch.arange(ROWS) % 5
    found = Gradient()(net, (x, kind), 1)
    assert_same(found[0], gradient(lambda z: net(z, kind)[:, 1], x))
    assert found[1] is None
    found = SmoothGrad(samples=5)(net, {"image": x[2:3], "kind": kind[2:3]}, 1)
    assert_same(found["image"], noisy_gradient(lambda z: net(z, kind[2:3])[:, 1], x[2:3], 5))


def test_a_pair_with_side_information():
    class Triple(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair, self.head = Pair(), nn.Linear(4, 3)

        def forward(self, left, right, table):
            return self.pair(left, right) * self.head(table)

    net, a, b = seeded(Triple), images(ROWS, 3, 8, 8), images(ROWS, 1, 6, 10)
    table = images(ROWS, 4, seed=3)
    for x, extra in (((a, b), (table,)), ({"left": a, "right": b}, {"table": table})):
        found = Gradient()(net, x, 1, extra=extra)
        left, right = found.values() if isinstance(found, dict) else found
        assert_same(left, gradient(lambda z: net(z, b, table)[:, 1], a))
        assert_same(right, gradient(lambda z: net(a, z, table)[:, 1], b))


def test_inputs_of_unequal_rows_are_an_error():
    with pytest.raises(WRONG, match=r"\b4\b.*\b3\b|\b3\b.*\b4\b"):
        Gradient()(seeded(Pair), (images(4, 3, 8, 8), images(3, 1, 6, 10)), 1)


def test_an_item_with_several_inputs_is_one_item_with_a_map_for_each():
    net, a, b = seeded(Pair), images(1, 3, 8, 8), images(1, 1, 6, 10)
    expected = gradient(lambda z: net(z, b)[:, 1], a)[0], gradient(lambda z: net(a, z)[:, 1], b)[0]
    for item in (deepviz.Inputs((a, b)), deepviz.Inputs({"left": a, "right": b})):
        found = deepviz.explain(net, item, "gradient", target=1)
        assert len(found) == 2
        for one, maps in zip(found, expected, strict=True):
            assert_same(one.attribution, maps.float(), 1e-5)
            assert one.target.score == pytest.approx(value(net(a, b)[0, 1]), rel=1e-5)


def test_a_list_of_pictures_remains_many_images():
    net, x = seeded(embedding), images(2, 3, 8, 8)
    assert len(deepviz.explain(net, [x[0], x[1]], "gradient", target=1)) == 2
    assert len(deepviz.explain(net, (x[0], x[1]), "gradient", target=1)) == 2


def test_the_default_layer_is_found_with_the_side_information():
    net, x, table = setting(3)
    found = GradCAM(relu=False).attribute(net, x, 1, extra=(table,))
    assert found.notes.facts["layer"] in ("cnn", "cnn.3")
    named = GradCAM("cnn.3", relu=False)(net, x, 1, extra=(table,))
    assert_same(found.maps, named)


def test_guided_backpropagation_reaches_what_the_side_information_goes_through_too():
    net, x, table = setting(3)
    found = GuidedBackprop().attribute(net, x, 1, extra=(table,))
    assert sum(found.notes.facts["overridden"].values()) == 3
