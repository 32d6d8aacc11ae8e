"""The place check, on every way in which tiny transformers list their tokens: right, or refused; never shuffled."""

import pytest
import torch
from torch import nn

from deepviz import explain
from deepviz.errors import LayerError
from deepviz.methods import GradCAM, Gradient, GuidedGradCAM
from deepviz.objectives import Neuron
from deepviz.probe.grid import Grid, orders
from deepviz.probe.layers import probe_layers
from deepviz.probe.places import CELLS, _scored, place
from networks import asked

torch.manual_seed(0)
WIDTH, CLASSES = 12, 4


class Mixing(nn.Module):
    """A transformer block, in which every token sees every other."""

    def __init__(self, rows_axis):
        super().__init__()
        self.norm, self.act, self.rows_axis = nn.LayerNorm(WIDTH), nn.GELU(), rows_axis
        self.attn = nn.MultiheadAttention(WIDTH, 2, batch_first=rows_axis == 0)
        self.mlp = nn.Linear(WIDTH, WIDTH)

    def forward(self, t):
        h = self.norm(t)
        t = t + self.attn(h, h, h, need_weights=False)[0]
        return t + self.act(self.mlp(t))


class Tokens(nn.Module):
    """Patches of an image, signal or volume, in a sequence with other tokens at the positions `others`.

    Args:
        space: the image's size.
        patch: side of a patch, one number for all axes or one for each.
        others: positions of class tokens and registers, in order.
        order: the image's axes as the sequence runs over them, slowest first.
        rows_axis: 0 for (N, L, D), 1 for (L, N, D).
        shuffle: a permutation of the patches.
    """

    def __init__(self, space, patch, others=(), order=(), rows_axis=0, shuffle=None):
        super().__init__()
        patch = (patch,) * len(space) if isinstance(patch, int) else patch
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(space) - 1]
        self.size = tuple(a // b for a, b in zip(space, patch, strict=True))
        self.patch = conv(3, WIDTH, patch, patch)
        self.others, self.order, self.rows_axis, self.shuffle = others, order, rows_axis, shuffle
        length = len(others) + torch.Size(self.size).numel()
        self.kept = [position for position in range(length) if position not in others]
        self.other = nn.Parameter(torch.randn(len(others), WIDTH))
        self.pos = nn.Parameter(0.3 * torch.randn(length, WIDTH))
        self.blocks = nn.ModuleList(Mixing(rows_axis) for _ in range(3))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        maps = self.patch(x)
        if self.order:
            maps = maps.permute(0, 1, *(2 + axis for axis in self.order))
        patches = maps.flatten(2).transpose(1, 2)
        if self.shuffle is not None:
            patches = patches[:, self.shuffle]
        t = patches.new_zeros(len(x), len(self.kept) + len(self.others), WIDTH)
        t = t.index_copy(1, torch.tensor(self.kept), patches)
        if self.others:
            t = t.index_copy(1, torch.tensor(self.others), self.other.expand(len(x), -1, -1))
        t = t + self.pos
        t = t.transpose(0, 1) if self.rows_axis else t
        for block in self.blocks:
            t = block(t)
        t = t.transpose(0, 1) if self.rows_axis else t
        return self.head(t[:, self.others[0]] if self.others else t.mean(1))

    def oracle(self, x, layer, target):
        """Grad-CAM by the formula, on the layout that this class knows."""
        found = []
        handle = self.get_submodule(layer).register_forward_hook(lambda _, inputs, output: found.append(output))
        score = self(x)[:, target].sum()
        handle.remove()
        (A,) = found
        (dA,) = torch.autograd.grad(score, A)
        A, dA = (self._laid(values.detach()) for values in (A, dA))
        w = dA.flatten(2).mean(2)
        return torch.einsum("nk,nk...->n...", w, A).unsqueeze(1)

    def _laid(self, t):
        t = t.transpose(0, 1) if self.rows_axis else t
        listed = [self.size[axis] for axis in self.order] or self.size
        maps = t[:, self.kept].transpose(1, 2).unflatten(2, listed)
        return (
            maps.permute(0, 1, *(2 + self.order.index(axis) for axis in range(len(self.size)))) if self.order else maps
        )


def made(seed=0, **given):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Tokens(**given).double().eval()


def images(space, n=2):
    return torch.rand(n, 3, *space, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


LAYOUTS = {
    "no other tokens": {"space": (32, 32), "patch": 8},
    "class token first": {"space": (32, 32), "patch": 8, "others": (0,)},
    "class token last": {"space": (32, 32), "patch": 8, "others": (16,)},
    "class token in the middle": {"space": (32, 32), "patch": 8, "others": (8,)},
    "class token second": {"space": (32, 32), "patch": 8, "others": (1,)},
    "class token last but one": {"space": (32, 32), "patch": 8, "others": (15,)},
    "class and distillation token": {"space": (32, 32), "patch": 8, "others": (0, 1)},
    "class token first, another last": {"space": (32, 32), "patch": 8, "others": (0, 17)},
    "class token and four registers": {"space": (32, 48), "patch": 8, "others": (0, 1, 2, 3, 4)},
    "registers last": {"space": (32, 48), "patch": 8, "others": (24, 25, 26, 27)},
    "detection tokens": {"space": (32, 32), "patch": 8, "others": (0, *range(17, 47))},
    "two in the middle": {"space": (48, 48), "patch": 8, "others": (18, 19)},
    "not square": {"space": (16, 56), "patch": 8, "others": (0,)},
    "high": {"space": (80, 16), "patch": 8, "others": (0,)},
    "sizes that do not divide": {"space": (37, 45), "patch": 8, "others": (0,)},
    "patches that are not square": {"space": (32, 48), "patch": (16, 4), "others": (0,)},
    "frames": {"space": (32, 64), "patch": (32, 2), "others": (0,)},
    "many": {"space": (96, 96), "patch": 4, "others": (288,)},
    "sequence first": {"space": (32, 32), "patch": 8, "others": (0,), "rows_axis": 1},
    "sequence first, class token in the middle": {"space": (32, 32), "patch": 8, "others": (8,), "rows_axis": 1},
    "column by column": {"space": (32, 48), "patch": 8, "others": (0,), "order": (1, 0)},
    "column by column, square": {"space": (32, 32), "patch": 8, "order": (1, 0)},
    "a signal": {"space": (96,), "patch": 8, "others": (0,)},
    "a clip": {"space": (8, 24, 24), "patch": (2, 8, 8), "others": (0,)},
    "a clip, time last": {"space": (8, 24, 24), "patch": (2, 8, 8), "others": (0,), "order": (1, 2, 0)},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_on_every_layout_grad_cam_is_the_formulas(name):
    model = made(**LAYOUTS[name])
    x = images(LAYOUTS[name]["space"])
    for layer in ("blocks.0", "blocks.1"):
        got = GradCAM(layer=layer, relu=False)(model, x, 2)
        torch.testing.assert_close(got, model.oracle(x, layer, 2), rtol=1e-9, atol=1e-12)
    found = GradCAM(relu=False).attribute(model, x, 2)
    torch.testing.assert_close(found.maps, model.oracle(x, found.notes.facts["layer"], 2), rtol=1e-9, atol=1e-12)
    assert found.notes.facts["layer"].startswith("blocks.")


@pytest.mark.parametrize("name", ["class token first", "class token in the middle", "sequence first"])
def test_as_many_images_as_tokens(name):
    """(17, 17, D) may be either order; one image tells."""
    model, x = made(**LAYOUTS[name]), images((32, 32), 17)
    got = GradCAM(layer="blocks.1", relu=False)(model, x, 2)
    torch.testing.assert_close(got, model.oracle(x, "blocks.1", 2), rtol=1e-9, atol=1e-12)


def window_order(height, width, side):
    """Patches window by window, as Hiera's blocks list them."""
    grid = torch.arange(height * width).view(height // side, side, width // side, side)
    return grid.transpose(1, 2).flatten()


def snake(height, width):
    rows = torch.arange(height * width).view(height, width)
    rows[1::2] = rows[1::2].flip(1)
    return rows.flatten()


SHUFFLED = {
    "random": lambda: torch.randperm(36, generator=torch.Generator().manual_seed(3)),
    "windows of 2 x 2": lambda: window_order(6, 6, 2),
    "windows of 3 x 3": lambda: window_order(6, 6, 3),
    "every other row backwards": lambda: snake(6, 6),
    "backwards": lambda: torch.arange(36).flip(0),
    "rolled by two": lambda: torch.arange(36).roll(2),
    "rolled by one": lambda: torch.arange(36).roll(1),
    "rows mirrored": lambda: torch.arange(36).view(6, 6).flip(1).flatten(),
}


@pytest.mark.parametrize("others", [(), (0,)])
@pytest.mark.parametrize("name", SHUFFLED)
def test_no_other_order_is_drawn(name, others):
    model = made(space=(48, 48), patch=8, others=others, shuffle=SHUFFLED[name]())
    x = images((48, 48))
    with pytest.raises(LayerError, match=r"layer 'blocks.1' returns .* grid=\(h, w\), skip=.* callable"):
        GradCAM(layer="blocks.1")(model, x, 2)
    assert GradCAM().attribute(model, x, 2).notes.facts["layer"] == "patch"


def test_what_cannot_be_found_can_be_said():
    order = window_order(6, 6, 2)
    model = made(space=(48, 48), patch=8, others=(0,), shuffle=order)
    x = images((48, 48))

    def unrolled(tokens):
        return tokens[:, 1:][:, order.argsort()].transpose(1, 2).unflatten(2, (6, 6))

    found = GradCAM(layer="blocks.1", grid=unrolled, relu=False).attribute(model, x, 2)
    in_order = made(space=(48, 48), patch=8, others=(0,))
    in_order.load_state_dict(model.state_dict())
    with torch.no_grad():
        in_order.pos[1:] = model.pos[1:][order.argsort()]
    torch.testing.assert_close(found.maps, in_order.oracle(x, "blocks.1", 2), rtol=1e-9, atol=1e-12)
    assert found.notes.facts["place"] == "given"


@pytest.mark.parametrize("method", [GradCAM, GuidedGradCAM])
def test_grid_and_skip_are_believed_and_fit(method):
    model, x = made(**LAYOUTS["class token in the middle"]), images((32, 32))
    with torch.no_grad():
        model.blocks[1] = nn.Sequential(nn.ReLU(), model.blocks[1])
    free = method(layer="blocks.1").attribute(model, x, 2)
    said = method(layer="blocks.1", grid=(4, 4), skip=(8,)).attribute(model, x, 2)
    assert torch.equal(free.maps, said.maps)
    assert said.notes.facts["place"] == "given"
    assert torch.equal(method(layer="blocks.1", skip=(-9,))(model, x, 2), said.maps)  # the grid is found
    assert torch.equal(method(layer="blocks.1", grid=(4, 4))(model, x, 2), said.maps)  # the class token is found
    for wrong in ({"grid": (4, 5)}, {"grid": (5, 5)}, {"grid": (4, 4), "skip": (0, 1)}, {"skip": (0, 1, 2)}):
        with pytest.raises(LayerError, match=r"returns .* for one image, and with"):
            method(layer="blocks.1", **wrong)(model, x, 2)
    with pytest.raises(LayerError, match="needs 2 numbers"):
        method(layer="blocks.1", grid=(16,))(model, x, 2)
    with pytest.raises(LayerError, match="name it with layer="):
        method(grid=(4, 4))(model, x, 2)


def test_a_wrong_skip_is_refused_where_the_grid_is_left_to_be_found():
    model, x = made(**LAYOUTS["class token in the middle"]), images((32, 32))
    with pytest.raises(LayerError, match=r"with skip=\(0,\): its tokens do not lie on the image"):
        GradCAM(layer="blocks.1", skip=(0,))(model, x, 2)


class Steps(nn.Module):
    """Frames through a network of their own, then a recurrence over them."""

    def __init__(self, frames):
        super().__init__()
        self.frames, self.cnn = frames, nn.Conv2d(1, 6, 3, padding=1)
        self.rnn, self.norm, self.head = nn.LSTM(6, 8, batch_first=True), nn.LayerNorm(8), nn.Linear(8, CLASSES)

    def forward(self, x):
        seen = torch.relu(self.cnn(x.reshape(-1, 1, *x.shape[2:]))).mean((2, 3))
        return self.head(self.norm(self.rnn(seen.unflatten(0, (len(x), self.frames)))[0]).mean(1))


class Queries(nn.Module):
    """A detector's queries, as many as a grid could have cells, that look at the image."""

    def __init__(self, queries):
        super().__init__()
        self.patch, self.queries = nn.Conv2d(3, WIDTH, 8, 8), nn.Parameter(torch.randn(queries, WIDTH))
        self.attn = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        queries = self.queries.expand(len(x), -1, -1)
        return self.head(self.norm(queries + self.attn(queries, tokens, tokens, need_weights=False)[0]))


class Classes(nn.Module):
    """As YOLO answers: (N, 4 + classes, anchors), as many as a grid could have cells."""

    def __init__(self, width):
        super().__init__()
        self.body, self.act, self.last = nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, width, 1)
        self.end = nn.Flatten(2)

    def forward(self, x):
        return self.end(self.last(self.act(self.body(x))))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("frames", [4, 9, 16, 20])
def test_time_steps_are_not_drawn(frames, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Steps(frames).eval()
    x = torch.rand(1, frames, 12, 12)
    for layer in (None, "rnn", "norm"):
        with pytest.raises(LayerError):
            GradCAM(layer=layer)(model, x, 1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("queries", [16, 17, 4, 25, 100])
def test_object_queries_are_not_drawn(queries, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Queries(queries).eval()
    x = torch.rand(1, 3, 32, 32)

    def score(output):
        return output[:, 2, 1]

    assert GradCAM(relu=False).attribute(model, x, score).notes.facts["layer"] == "patch"
    with pytest.raises(LayerError):
        GradCAM(layer="norm")(model, x, score)


@pytest.mark.parametrize("width", [16, 17, 25, 84])
def test_class_channels_are_not_drawn(width):
    model, x = Classes(width).eval(), torch.rand(1, 3, 16, 16)
    found = GradCAM(relu=False).attribute(model, x, lambda output: output[:, 5].amax(1))
    assert found.notes.facts["layer"] == "act"
    assert found.maps.shape == (1, 1, 4, 4)
    with pytest.raises(LayerError):
        GradCAM(layer="end")(model, x, lambda output: output[:, 5].amax(1))


class Columns(nn.Module):
    """Reads words: a network that leaves one row of columns, and a recurrence over them."""

    def __init__(self):
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Conv2d(8, 16, (8, 1)))
        self.rnn, self.head = nn.LSTM(16, 8, batch_first=True, bidirectional=True), nn.Linear(16, 11)

    def forward(self, x):
        return self.head(self.rnn(self.cnn(x).squeeze(2).transpose(1, 2))[0])


def test_of_a_recurrent_reader_the_last_map_before_the_recurrence():
    model, x = Columns().eval(), torch.rand(1, 1, 32, 100)
    found = GradCAM(relu=False).attribute(model, x, lambda output: output[:, 10, 3])
    assert (found.notes.facts["layer"], found.notes.facts["grid"]) == ("cnn", "1 x 25, channels first")


# the check itself


def checked(cells, image, **given):
    """The check of an answer that holds `cells(image)`, and how many backward passes it took."""
    leaf = image.clone().requires_grad_()
    return place(cells(leaf), leaf, **given)


def test_it_takes_at_most_twelve_backward_passes():
    for name in LAYOUTS:
        model = made(**LAYOUTS[name])
        leaf = images(LAYOUTS[name]["space"], 1).requires_grad_()
        found = []
        model.blocks[1].register_forward_hook(lambda _, inputs, output, found=found: found.append(output))
        model(leaf)
        result = place(found[0], leaf, [model.size])
        assert result.backwards <= CELLS, name
        assert result.grid is not None, name


@pytest.mark.parametrize("order", [one for one in orders(3) if one])
def test_transposed_maps_are_turned_back(order):
    image = torch.rand(1, 2, 8, 12, 10)
    conv = nn.Conv3d(2, 4, 2, 2)
    result = checked(lambda x: conv(x).permute(0, 1, *(2 + axis for axis in order)), image)
    assert result.grid == Grid("channels first", (4, 6, 5), order=order)


def test_channels_last_maps_are_recognised():
    conv = nn.Conv2d(3, 8, 4, 4)
    result = checked(lambda x: conv(x).movedim(1, -1), torch.rand(1, 3, 16, 24))
    assert result.grid == Grid("channels last", (4, 6))
    assert result.agreement.r > 0.99
    assert result.backwards <= CELLS


def test_maps_made_of_the_whole_image_are_refused():
    line = nn.Linear(3 * 16 * 16, 8 * 4 * 4)
    result = checked(lambda x: line(x.flatten(1)).view(1, 8, 4, 4), torch.rand(1, 3, 16, 16))
    assert result.grid is None
    assert "do not lie on the image" in result.reason


def test_what_does_not_depend_on_the_image_is_refused():
    weight = torch.rand(1, 8, 4, 4, requires_grad=True)
    assert checked(lambda x: weight * 2 + 0 * x.detach().mean(), torch.rand(1, 3, 16, 16)).grid is None
    result = checked(lambda x: weight * 2, torch.rand(1, 3, 16, 16))
    assert (result.grid, result.reason) == (None, "it does not depend on the image")


def test_tokens_of_convolutions_that_overlap_are_recognised():
    """As a detector's encoder has them: each cell sees far beyond its own place."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(*(nn.Sequential(nn.Conv2d(3 if k == 0 else 8, 8, 3, 2, 1), nn.ReLU()) for k in range(4)))
    result = checked(lambda x: body(x).flatten(2).transpose(1, 2), torch.rand(1, 3, 96, 128), known=[(6, 8)])
    assert result.grid == Grid("tokens", (6, 8))


def test_an_explanation_says_how_the_grid_is_known():
    model = made(**LAYOUTS["class token in the middle"]).float()
    (found,) = explain(model, torch.rand(3, 32, 32), GradCAM(relu=False), target=1)
    assert found.notes["grid"] == "4 x 4 + 1 other token, tokens"
    assert found.notes["place"].startswith("checked: r = ")


@pytest.mark.parametrize(
    "name", ["class token last", "class token in the middle", "sequence first", "column by column"]
)
def test_objectives_read_a_layer_on_the_grid_that_was_found(name):
    """A neuron at a place of the image, not of the sequence: its gradient is strongest there."""
    model, space = made(**LAYOUTS[name]), LAYOUTS[name]["space"]
    x = images(space)
    at = (1, 2)
    found = Gradient()(model, x, Neuron("blocks.0", channel=3, at=at))
    leaf, heard = x.clone().requires_grad_(), []
    handle = model.blocks[0].register_forward_hook(lambda _, inputs, output: heard.append(output))
    model(leaf)
    handle.remove()
    (wanted,) = torch.autograd.grad(model._laid(heard[0])[:, 3, 1, 2].sum(), leaf)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_time_in_the_place_of_channels_is_not_taken_for_depth():
    """(N, frames, channels, h, w) looks like a volume of three slices; its grid of 2 x 4 x 4 has no such axis."""
    conv = nn.Conv3d(3, WIDTH, (2, 8, 8), (2, 8, 8))
    for seed in range(5):
        image = torch.randn(1, 4, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        result = checked(lambda x: conv(x.transpose(1, 2)).flatten(2).transpose(1, 2), image, known=[(2, 4, 4)])
        assert result.grid is None


class Moved(nn.Module):
    """A convolutional network that first does something to its image."""

    def __init__(self, first):
        super().__init__()
        self.first = first
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, stride=2, padding=1), nn.ReLU()
        )
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.head(self.body(self.first(x)).mean((2, 3)))


MOVED = {
    "mirrored": lambda x: x.flip(3),
    "turned by 90 degrees": lambda x: torch.rot90(x, 1, (2, 3)),
    "rolled": lambda x: x.roll(20, 3),
    "the centre": lambda x: x[:, :, 14:-14, 14:-14],
    "the left half": lambda x: x[..., :24],
    "the upper left quarter": lambda x: x[:, :, :24, :24],
    "padded to the right": lambda x: nn.functional.pad(x, (0, 48)),
    "padded all round": lambda x: nn.functional.pad(x, (24, 24, 24, 24)),
}


@pytest.mark.parametrize("layer", [None, "body.3"])
@pytest.mark.parametrize("first", MOVED)
def test_a_model_that_moves_its_image_is_refused(first, layer):
    model = Moved(MOVED[first]).eval()
    with pytest.raises(LayerError, match="grid="):
        GradCAM(layer)(model, torch.rand(1, 3, 48, 48), 1)


@pytest.mark.parametrize("first", [lambda x: x, lambda x: x.transpose(2, 3), lambda x: nn.functional.pad(x, (1,) * 4)])
def test_what_leaves_the_image_in_place_or_turns_its_axes_is_right(first):
    model, x = Moved(first).double().eval(), torch.rand(1, 3, 48, 48, dtype=torch.float64)
    A = model.body(first(x))
    (dA,) = torch.autograd.grad(model.head(A.mean((2, 3)))[0, 1], A)
    cam = (dA.mean((2, 3), keepdim=True) * A).sum(1, keepdim=True).detach()
    cam = cam.transpose(2, 3) if torch.equal(first(x), x.transpose(2, 3)) else cam
    assert torch.allclose(GradCAM("body.3", relu=False)(model, x, 1), cam, atol=1e-12)


class WithTable(nn.Module):
    """Before its blocks, a module returns a table of positions, of a size that is no grid of the image."""

    def __init__(self, model):
        super().__init__()
        self.model, self.table, self.positions = model, nn.Parameter(torch.rand(1, 4, 7, 2).double()), nn.Identity()

    def forward(self, x):
        return self.model(x + 0 * self.positions(self.table).sum())


def test_the_size_of_a_table_of_positions_is_no_grid_of_the_image():
    model, x = WithTable(made(space=(48, 48), patch=8)), images((48, 48))
    with asked(model, x) as session:
        sizes = {size for one in probe_layers(session) for size in one.known}
    assert sizes == {(6, 6)}


def test_a_layout_without_the_positions_that_were_looked_at_is_none():
    """Of 48 tokens 34 might be others: then a shift exists for which none of those looked at has a cell."""
    gains = [(position, torch.full((14,), 3.0)) for position in (20, 27, 19, 28)]
    layouts = _scored(Grid("tokens", (7, 2), tuple(range(34))), gains, False)
    assert {layout.before for layout in layouts} == set(range(14, 21))
