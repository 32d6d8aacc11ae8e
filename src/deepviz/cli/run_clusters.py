"""`deepviz clusters`: which maps of a run look alike, and which are like no other."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from deepviz.cli import OK, UsageError
from deepviz.errors import DeepVizError
from deepviz.models.images import shown
from deepviz.results.clusters import Clusters
from deepviz.results.run import Run


def clusters(
    run: Annotated[Path, Parameter(help="Folder of a run.")],
    *,
    method: Annotated[
        str | None, Parameter(alias="-m", help="Method whose maps are compared; by default the run's only one.")
    ] = None,
    where: Annotated[
        str | None,
        Parameter(help="Condition on the images, such as \"label == 'horse'\"; look at one class at a time."),
    ] = None,
    n: Annotated[
        int | None, Parameter(help="Number of clusters; by default that of the largest gap between eigenvalues.")
    ] = None,
    size: Annotated[int, Parameter(help="Cells along each side of the grid on which maps are compared.")] = 12,
    neighbours: Annotated[
        int | None, Parameter(help="Neighbours that each map is joined with; by default 10, fewer of few maps.")
    ] = None,
    sample: Annotated[int, Parameter(help="Maps that are embedded at most; others join the nearest cluster.")] = 2000,
    seed: Annotated[int, Parameter(help="Of the sample and of k-means.")] = 0,
    output: Annotated[
        Path | None, Parameter(alias="-o", help="Picture of the clusters: .png or .jpg; each with its mean map.")
    ] = None,
    most: Annotated[int, Parameter(help="Images that are listed of each cluster, and of the odd ones.")] = 5,
    json: Annotated[bool, Parameter(negative="", help="Print everything as JSON.")] = False,
) -> int:
    """Find groups of maps that look alike, by spectral relevance analysis (Lapuschkin et al. 2019).

    Where a model uses something else than the object in some images of a class, such as a watermark, the maps of these
    are a cluster of their own. Lists the clusters, the most separate first, with their most typical images, and the
    images whose maps are like no other.
    """
    try:
        found = Run(run).clusters(
            method, where=where, n=n, size=size, neighbours=neighbours, sample=sample, seed=seed
        )  # fmt: skip
    except DeepVizError:
        raise
    except (ValueError, LookupError) as error:
        raise UsageError(str(error)) from None
    if output is not None:
        found.save(output)
    if json:
        print(dumps(found.as_json(), indent=2))
    else:
        tell(found, most)
        if output is not None:
            print(output)
    return OK


def tell(found: Clusters, most: int) -> None:
    """Print the clusters with their most typical images, and the odd ones."""
    images = dict(zip(found.indices.tolist(), found.images, strict=True))
    oddness = dict(zip(found.indices.tolist(), found.oddness.tolist(), strict=True))
    print(f"{len(found)} cluster{'' if len(found) == 1 else 's'} of {len(images)} maps of {found.method}")
    for number, size in enumerate(found.sizes):
        print(f"cluster {number}: {size} maps, separation {found.separation[number]:.2f}")
        for index in found.members(number)[:most]:
            print(f"  {shown(images[index])}")
    print("like no other:")
    for index in found.odd_ones(most):
        print(f"  {shown(images[index])}: oddness {oddness[index]:.2f}, cluster {found.of_image[index]}")
    for one in found.left_out[:most]:
        print(f"left out: {shown(one.image)}: {one.reason}")
    if len(found.left_out) > most:
        print(f"left out: and {len(found.left_out) - most} more")
    print(found.footnote)
