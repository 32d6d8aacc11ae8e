import numpy as np
import torch

from attention_by_hand import layers
from by_hand import array
from deepviz.methods import TokenSimilarity
from networks import CASES, assert_same

VIT = CASES["vit"]


def test_it_is_the_cosine_of_the_class_token_and_each_image_token_by_hand():
    vit, x = VIT.model(), VIT.images(2)
    found = TokenSimilarity()(vit, x, 1)
    for row in range(2):
        Z = layers(vit, array(x[row]))[0][-1]
        cosines = [z @ Z[0] / (np.linalg.norm(z) * np.linalg.norm(Z[0])) for z in Z[1:]]
        assert_same(found[row], torch.tensor(cosines, dtype=torch.float64).view(1, 3, 4), 1e-12)


def test_it_is_the_same_for_every_class_and_says_so():
    found = TokenSimilarity().attribute(VIT.model(), VIT.images(), torch.tensor([[0, 1], [2, 3], [4, 4]]))
    assert torch.equal(found.maps[:, 0], found.maps[:, 1])
    assert found.notes.facts["objective"] == "none: the map is the same for every class"
