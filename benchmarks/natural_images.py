"""Makes the table of natural images' statistics that the canvases use: `python benchmarks/natural_images.py FOLDER`.

From every image of the folder the largest centred square is taken, resized to 256 x 256 (Lanczos), as pixels from
0 to 1:

1. colour: the 3 x 3 covariance of red, green and blue over all pixels of all images, and their mean;
2. magnitude: the images in decorrelated colours (z = L^-1 (pixel - mean), L L^T the covariance), each windowed
   (Hann, so that the borders make no cross), and the root mean square over images of |FFT| (orthonormal), its
   geometric mean in bins of frequency (logarithmic) and orientation (opposite and mirrored directions are the same).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SIDE = 256
HOME = Path(__file__).parent.parent / "src" / "deepviz" / "synthesis" / "natural_images.json"


def main(folder: Path) -> None:
    from deepviz.synthesis.natural_images import measured

    images = [squared(path) for path in sorted(folder.iterdir()) if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    HOME.write_text(json.dumps(measured(np.stack(images)).to_json(), indent=1) + "\n", encoding="utf-8")
    print(f"{len(images)} images -> {HOME}")


def squared(path: Path) -> np.ndarray:
    picture = ImageOps.fit(
        ImageOps.exif_transpose(Image.open(path)).convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS
    )
    return np.asarray(picture, dtype=np.float32) / 255


if __name__ == "__main__":
    main(Path(sys.argv[1]))
