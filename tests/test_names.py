import pytest

from deepviz.names import nearest, renamed_keywords

KNOWN = ["grad-cam", "gradient", "guided-grad-cam", "Tiger Cat"]


def test_near_names_nearest_first():
    assert nearest("gradcam", KNOWN, most=1) == "; did you mean 'grad-cam'?"
    assert nearest("gradcam", KNOWN).startswith("; did you mean 'grad-cam' or '")


def test_capitals_do_not_matter_and_are_kept():
    assert nearest("tiger caT", KNOWN) == "; did you mean 'Tiger Cat'?"


def test_nothing_near_says_nothing():
    assert nearest("xyz", KNOWN) == ""
    assert nearest("anything", []) == ""


@renamed_keywords(old="new")
def doubled(*, new):
    return 2 * new


def test_a_former_keyword_is_accepted_with_a_warning_that_points_to_the_caller():
    with pytest.warns(DeprecationWarning, match="old= is deprecated: use new=") as caught:
        assert doubled(old=2) == 4
    assert caught[0].filename == __file__
    assert doubled(new=2) == 4
    with pytest.raises(TypeError, match="either new or"):
        doubled(old=1, new=2)
