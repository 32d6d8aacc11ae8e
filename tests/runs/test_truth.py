import pytest
import torch
from PIL import Image

import deepviz
from deepviz.errors import TargetError
from deepviz.metrics import Deletion
from deepviz.models.labels import imagenet_labels

LABELS = ("lynx", "red fox", "tabby")


def folder_of(tmp_path, *paths):
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / path)
    return tmp_path


def test_the_classes_of_a_folder_are_in_the_order_in_which_explain_reads_it(tmp_path):
    folder = folder_of(tmp_path, "Red_fox/2.png", "Red_fox/old/1.png", "lynx/3.png", "tabby/0.png")
    found = deepviz.ground_truth(folder, LABELS)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3))
    model = deepviz.load_model(net, preprocess=deepviz.Preprocess(8), labels=LABELS)
    explained = deepviz.explain(model, folder, "gradient", target=found)
    assert [one.target.label for one in explained] == ["red fox", "red fox", "lynx", "tabby"]
    assert found.tolist() == [1, 1, 0, 2] == deepviz.ground_truth(folder, model).tolist()
    judged = deepviz.evaluate(model, folder, "gradient", Deletion(steps=2), target=found, controls=False)
    assert judged.values.shape == (4, 1, 1)


def test_a_file_gives_the_class_by_index_or_name_and_the_path_decides(tmp_path):
    folder = folder_of(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "truth.csv").write_text("file,class\na/1.png,tabby\nb/1.png,1\n")
    assert deepviz.ground_truth(folder, LABELS, tmp_path / "truth.csv").tolist() == [2, 1]


def test_a_folder_of_no_class_is_an_error_that_names_the_image(tmp_path):
    with pytest.raises(TargetError, match=r"linx/1\.png: its folder is not named after a class.*did you mean 'lynx'"):
        deepviz.ground_truth(folder_of(tmp_path, "linx/1.png"), LABELS)


@pytest.mark.parametrize("name", ["n02085620", "n02085620-Chihuahua", "n02085620_Chihuahua"])
def test_names_of_wordnet_are_classes_of_imagenet_and_of_no_other_model(tmp_path, name):
    folder = folder_of(tmp_path, f"train/{name}/1.png")
    assert [imagenet_labels()[index] for index in deepviz.ground_truth(folder, imagenet_labels())] == ["Chihuahua"]
    with pytest.raises(TargetError, match="no class named"):
        deepviz.ground_truth(folder, LABELS)
