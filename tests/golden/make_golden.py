#!/usr/bin/env python3
"""Makes all golden fixtures.

    make_golden.py [OUT]     default OUT: the folder of this script

Every golden_NAME.py beside this script has a function `make(out_dir)` that writes its fixtures, with the PyTorch version in
them. `cargo xtask golden --check` makes them in a temporary folder and compares.
"""
import importlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    if len(sys.argv) > 2 or sys.argv[1:] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    out = Path(sys.argv[1]) if len(sys.argv) == 2 else HERE
    out.mkdir(parents=True, exist_ok=True)
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(HERE))
    for script in sorted(HERE.glob("golden_*.py")):
        print(f"golden: {script.name}", file=sys.stderr, flush=True)
        try:
            importlib.import_module(script.stem).make(out)
        except ModuleNotFoundError as missing:
            sys.exit(
                f"golden: this Python ({sys.executable}) has no module {missing.name!r}: the fixtures are made with "
                "PyTorch, so it needs torch, torchvision, numpy, pillow, safetensors and scikit-learn; choose another with --python"
            )


if __name__ == "__main__":
    main()
