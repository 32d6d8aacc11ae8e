import numpy as np
import pytest
import torch
from torch import nn

from deepviz import Preprocess, VideoPreprocess, explain
from deepviz.errors import ImageError, ModelError

av = pytest.importorskip("av")

PLAIN = Preprocess(32, crop=None, mean=(0.0,) * 3, std=(1.0,) * 3)


def save(path, frames, rotation=None):
    """Frames, each one grey level or an array (H, W, 3), in a lossy codec of high quality."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 32, "yuv420p", 4_000_000
        if rotation is not None:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip("this PyAV writes no rotation")
            stream.set_display_rotation(rotation)
        for frame in frames:
            pixels = np.full((32, 64, 3), frame, np.uint8) if np.isscalar(frame) else frame
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def levels(x):
    return [round(float(one) * 255) for one in x.mean((0, 2, 3))]


def test_frames_are_the_middles_of_equal_parts(tmp_path):
    path = save(tmp_path / "a.mp4", [10 * number for number in range(20)])
    ready = VideoPreprocess(4, PLAIN)(path)
    assert ready.x.shape == (3, 4, 32, 32)
    assert levels(ready.x) == pytest.approx([20, 70, 120, 170], abs=4)  # frames 2, 7, 12 and 17
    assert ready.notes == ("4 of 20 frames",)


def test_a_short_video_repeats_frames(tmp_path):
    path = save(tmp_path / "a.mp4", [50, 150])
    ready = VideoPreprocess(4, PLAIN)(path)
    assert levels(ready.x) == pytest.approx([50, 50, 150, 150], abs=4)
    assert ready.notes == ("all of 2 frames, some repeated to 4",)


@pytest.mark.parametrize(("rotation", "corner"), [(None, "top left"), (90, "bottom left"), (180, "bottom right")])
def test_frames_are_turned_as_the_file_says(tmp_path, rotation, corner):
    """A white corner at the top left; 90 degrees counter-clockwise bring it to the bottom left."""
    frame = np.zeros((32, 64, 3), np.uint8)
    frame[:8, :16] = 255
    ready = VideoPreprocess(1, PLAIN)(save(tmp_path / "a.mp4", [frame], rotation))
    x = ready.x[:, 0].mean(0)
    quarter = {"top left": x[:4, :4], "bottom left": x[-4:, :4], "bottom right": x[-4:, -4:]}
    assert [name for name, part in quarter.items() if part.mean() > 0.8] == [corner]
    if rotation == 90:  # 32 wide, 64 high
        assert (x > 0.5).sum(0).max() == pytest.approx(32 * 16 / 64, abs=1)


def test_a_video_is_explained_frame_by_frame(tmp_path):
    path = save(tmp_path / "a.mp4", [0] * 5 + [255] * 5)

    class Bright(nn.Module):
        def forward(self, x):
            return torch.stack([x.mean((1, 2, 3, 4)), -x.mean((1, 2, 3, 4))], 1)

    (found,) = explain(Bright(), path, "grad-times-image", target=0, preprocess=VideoPreprocess(2, PLAIN))
    dark, bright = found.attribution.sum((0, 2, 3)).tolist()
    assert dark == pytest.approx(0, abs=0.01)
    assert bright == pytest.approx(0.5, abs=0.01)
    assert found.space == (2, 32, 32)


def test_what_is_no_video_is_an_error_of_one_line(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(ImageError, match=r"a\.mp4 cannot be read, it may be damaged") as error:
        VideoPreprocess()(tmp_path / "a.mp4")
    assert "\n" not in str(error.value)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"a\.png is not a video"):
        VideoPreprocess()(tmp_path / "a.png")


@pytest.mark.parametrize("options", [{"frames": 0}, {"frames": 2.5}, {"each": "imagenet"}])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ModelError, match="must be a"):
        VideoPreprocess(**options)
