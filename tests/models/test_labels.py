import json

import pytest

from deepviz.errors import ModelError, TargetError
from deepviz.models.labels import find_label, imagenet_labels, read_labels


def test_imagenet_has_a_thousand_different_names_in_the_usual_order():
    labels = imagenet_labels()
    assert len(set(labels)) == 1000
    known = {0: "tench", 277: "red fox", 281: "tabby", 282: "tiger cat", 285: "Egyptian cat", 292: "tiger"}
    known |= {134: "crane bird", 517: "crane", 967: "espresso", 999: "toilet tissue"}
    assert {index: labels[index] for index in known} == known


def test_every_imagenet_name_finds_its_own_class():
    labels = imagenet_labels()
    assert [find_label(label, labels) for label in labels] == list(range(1000))


@pytest.mark.parametrize("label", ["tabby, tabby cat", "Tabby", "TABBY CAT", "tabby_cat", " tabby  cat "])
def test_whole_labels_and_synonyms_in_any_capitals(label):
    assert find_label(label, ["red fox", "tabby, tabby cat"]) == 1


def test_a_whole_label_goes_before_a_synonym():
    assert find_label("crane", ["crane, bird", "crane"]) == 1


@pytest.mark.parametrize("labels", [["crane", "fox", "crane"], ["crane, bird", "fox", "crane, machine"]])
def test_ambiguous_label_names_the_indices(labels):
    with pytest.raises(TargetError, match=r"2 classes are called 'crane'.* 0 .* 2 "):
        find_label("crane", labels)


def test_unknown_label_names_the_nearest():
    with pytest.raises(TargetError, match="no class named 'tiger_cats'; did you mean 'tiger cat'"):
        find_label("tiger_cats", imagenet_labels())


def test_labels_from_a_list_and_files(tmp_path):
    wanted = ("Katze", "Hündin")
    text = tmp_path / "labels.txt"
    text.write_text("Katze\nHündin\n", encoding="utf-8")
    assert read_labels(wanted) == read_labels(str(text)) == wanted
    held = (list(wanted), {"1": wanted[1], "0": wanted[0]}, {"0": ["n1", wanted[0]], "1": ["n2", wanted[1]]})
    for content in held:
        path = tmp_path / "labels.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        assert read_labels(path) == wanted


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels.json", "{", "holds no labels"),
        ("labels.json", '{"a": "b"}', "holds no labels"),
        ("labels.json", "7", "holds no labels"),
        ("labels.txt", "", "is empty"),
    ],
)
def test_files_without_labels(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ModelError, match=message):
        read_labels(tmp_path / name)


def test_labels_file_that_does_not_exist():
    with pytest.raises(ModelError, match=r"nowhere\.txt does not exist"):
        read_labels("nowhere.txt")
