import pytest

from deepviz.geometry import Geometry


def test_the_whole_picture():
    geometry = Geometry.whole((40, 30))
    assert geometry.box == (0.0, 0.0, 40.0, 30.0)
    assert geometry.covers_all


def test_resize_and_crop_back_on_the_photograph():
    geometry = Geometry.resize_crop(size=(400, 300), resized=(200, 150), crop=(100, 150))
    assert geometry.box == (100.0, 0.0, 300.0, 300.0)
    assert not geometry.covers_all


def test_a_crop_larger_than_the_resized_picture_reaches_outside():
    geometry = Geometry.resize_crop(size=(40, 20), resized=(40, 20), crop=(60, 40))
    assert geometry.box == (-10.0, -10.0, 50.0, 30.0)


def test_squashing_covers_all():
    assert Geometry.resize_crop(size=(417, 311), resized=(224, 224), crop=(224, 224)).covers_all


@pytest.mark.parametrize(("resized", "left"), [(226, 1), (227, 2), (228, 2), (229, 2), (225, 0)])
def test_half_pixels_are_rounded_to_even_as_torchvision_does(resized, left):
    assert Geometry.resize_crop((resized, 224), (resized, 224), (224, 224)).box[0] == left


def test_the_same_part_of_a_resized_photograph():
    geometry = Geometry((400, 300), (50.0, -30.0, 350.0, 330.0))
    assert geometry.scaled((200, 100)) == Geometry((200, 100), (25.0, -10.0, 175.0, 110.0))
    assert Geometry.whole((400, 300)).scaled((40, 30)).covers_all
    assert geometry.scaled(geometry.size) == geometry


def test_a_box_of_the_photograph_on_the_input():
    """What is in the box on the photograph is in the box on the input; what the model did not see is cut off."""
    geometry = Geometry.resize_crop(size=(400, 300), resized=(341, 256), crop=(224, 224))
    left, top, right, bottom = geometry.box
    assert geometry.on_input(geometry.box, (224, 224)) == (0, 0, 224, 224)
    assert geometry.on_input((0, 0, 400, 300), (224, 224)) == (0, 0, 224, 224)
    middle = ((left + right) / 2, (top + bottom) / 2)
    assert geometry.on_input((*middle, right, bottom), (224, 112)) == pytest.approx((112, 56, 224, 112))
    gone = geometry.on_input((0, 0, left - 1, 300), (224, 224))
    assert gone[0] == gone[2] == 0
