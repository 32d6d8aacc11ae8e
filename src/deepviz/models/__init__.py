"""A name, path or module -> a model, its preprocessing and its labels; and the images that go in."""

from deepviz.models.adapted import detector
from deepviz.models.band_preprocess import BandPreprocess
from deepviz.models.images import Photo, example_photo, find_images, find_photos, open_photo
from deepviz.models.load import load_model
from deepviz.models.loaded import LoadedModel, Prepared
from deepviz.models.preprocess import Preprocess
from deepviz.models.texts import TextEmbedder
from deepviz.models.video_preprocess import VideoPreprocess
from deepviz.models.volume_preprocess import VolumePreprocess

__all__ = [
    "BandPreprocess",
    "LoadedModel",
    "Photo",
    "Prepared",
    "Preprocess",
    "TextEmbedder",
    "VideoPreprocess",
    "VolumePreprocess",
    "detector",
    "example_photo",
    "find_images",
    "find_photos",
    "load_model",
    "open_photo",
]
