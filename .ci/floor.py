"""Print the oldest versions that pyproject.toml allows, for pip: `python .ci/floor.py demo plot`, of extras too."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
for given in (project["dependencies"], *(project["optional-dependencies"][extra] for extra in sys.argv[1:])):
    print(*(one.replace(">=", "==") for one in given), sep="\n")
