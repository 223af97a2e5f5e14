"""Make a virtual environment for each peer that does not run in glinthawk's own.

    python bench/peers/install.py [PEER ...]

The package index in use must offer a CPU build of torch; a peer that would bring CUDA libraries
with it is skipped with a word.
"""

import json
import subprocess
import sys
import venv
from pathlib import Path

from models import BUILD

_HERE = Path(__file__).parent

#: Not needed for text; where they are not built for the very torch beside them, transformers
#: cannot be imported.
_UNWANTED = ("torchvision", "torchaudio", "torchcodec")


def main(names: list[str]) -> int:
    known = {path.stem: path for path in sorted(_HERE.glob("requirements/*.txt"))}
    skipped = [name for name in names or known if not _install(name, known[name])]
    return 1 if skipped else 0


def _install(name: str, requirements: Path) -> bool:
    folder = BUILD / name / "venv"
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin" / "python"
    cuda = _cuda_packages(python, requirements)
    if cuda:
        _say(f"{name}: skipped, it would bring {', '.join(cuda)}; use an index of CPU builds")
        return False
    _pip(python, "install", "-r", str(requirements))
    _pip(python, "uninstall", "--yes", *_UNWANTED)
    _say(f"{name}: installed in {folder}")
    return True


def _cuda_packages(python: Path, requirements: Path) -> list[str]:
    """Packages for CUDA among those that would be installed."""
    plan = _pip(python, "install", "--dry-run", "--report", "-", "-r", str(requirements))
    names = [one["metadata"]["name"] for one in json.loads(plan)["install"]]
    return [name for name in names if name.startswith("nvidia-")]


def _pip(python: Path, *words: str) -> str:
    command = [python, "-m", "pip", "--quiet", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
