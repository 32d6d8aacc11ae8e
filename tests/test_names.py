from deepviz.names import nearest

KNOWN = ["grad-cam", "gradient", "guided-grad-cam", "Tiger Cat"]


def test_near_names_nearest_first():
    assert nearest("gradcam", KNOWN, most=1) == "; did you mean 'grad-cam'?"
    assert nearest("gradcam", KNOWN).startswith("; did you mean 'grad-cam' or '")


def test_capitals_do_not_matter_and_are_kept():
    assert nearest("tiger caT", KNOWN) == "; did you mean 'Tiger Cat'?"


def test_nothing_near_says_nothing():
    assert nearest("xyz", KNOWN) == ""
    assert nearest("anything", []) == ""
