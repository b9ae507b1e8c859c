#!/usr/bin/env python3
"""Fidelity, part 1: from the same weights and the same views, the program's losses follow PyTorch's step by step.

    cargo build --release
    cargo run --release -p simclr-data --example dump_views -- --data-dir DIR --subset 5000 --batch 64 --steps 100 \
        --seed 0 --out views.safetensors
    follow.py --program target/release/simclr-train --views views.safetensors --data-dir DIR --subset 5000 --batch 64 \
        --steps 100 --seed 0 --out follow.json

PyTorch makes the weights, and the program begins with them (`--init`) and trains on its own views, which `dump_views`
has written down. PyTorch trains on these three times: in float32 with the maps in two memory formats, which is no
difference but rounding, and in float64. Float32 drifts away from float64, the more the longer and the higher the
learning rate, in PyTorch as well: so the question is whether the program stays as near as PyTorch's own float32.
(A first loss that is far off means that the views are of other settings than the program was given.)
With --launcher the program is many processes, each with a part of every batch.

Exit status 1 if the program's largest distance from float64 is over 3 times that of PyTorch's float32, the larger of
the two (or 1e-6, if that is larger: two units in the last place of a loss near 4). Needs torch, torchvision,
safetensors and numpy.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from simclr_torch import ARCHITECTURES, TRAINING_PICTURES, new_adam, new_model, train_step

SHOWN = [1, 10, 25, 50, 100]
TIMES, FLOOR = 3, 1e-6
FORMS = {
    "NCHW": (torch.float32, torch.contiguous_format),
    "channels_last": (torch.float32, torch.channels_last),
    "f64": (torch.float64, torch.contiguous_format),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=Path, required=True, help="simclr-train, built")
    parser.add_argument("--views", type=Path, required=True, help="what dump_views wrote, of the same settings")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--arch", choices=ARCHITECTURES, default="resnet18")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--subset", type=int, default=TRAINING_PICTURES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--launcher", default="", help='starts the program in many processes, as "mpirun -n 2"')
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of both, one after the other")
    parser.add_argument("--out", type=Path, required=True, help="all losses, as JSON")
    args = parser.parse_args()
    if args.batch > args.subset:
        parser.error("--batch is larger than --subset")
    return args


def read_views(args: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    views = load_file(args.views)
    left, right = views["left"], views["right"]
    expected = (args.batch, 3, 32, 32)
    if left.shape != right.shape or left.shape[1:] != expected or len(left) < args.steps:
        sys.exit(f"{args.views}: shapes {list(left.shape)}, {list(right.shape)}; expected {[args.steps, *expected]}")
    return left, right


def losses_of_program(args: argparse.Namespace, weights: Path, run: Path) -> list[float]:
    # One epoch more than the steps fill: the program stops before the end of training, and does not go on to kNN.
    epochs = args.steps // (args.subset // args.batch) + 1
    options = {
        "--data": "cifar10", "--data-dir": args.data_dir, "--subset": args.subset, "--arch": args.arch,
        "--init": weights, "--batch": args.batch, "--epochs": epochs, "--lr": args.lr, "--seed": args.seed,
        "--max-steps": args.steps, "--log-every": 1, "--knn-every": 0, "--checkpoint-every": epochs,
        "--device": "cpu", "--threads": args.threads, "--run": run,
    }  # fmt: skip
    words = (word for option in options.items() for word in option)
    command = [*args.launcher.split(), args.program, "pretrain", "--json", *words]
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit(f"{args.program} ended with status {done.returncode}")
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {event["step"]: event["loss"] for event in events if event["event"] == "step"}
    if list(losses) != list(range(1, args.steps + 1)):
        sys.exit(f"the metrics have {len(losses)} steps, expected 1 to {args.steps}")
    return list(losses.values())


def losses_of_torch(args: argparse.Namespace, weights: Path, form: str, left, right) -> list[float]:
    dtype, memory_format = FORMS[form]
    model = new_model(args.arch, args.width)
    model.load_state_dict(torch.load(weights, weights_only=True))
    # Widened only now: both types begin with the same numbers.
    model = model.to(dtype=dtype, memory_format=memory_format).train()
    adam, losses = new_adam(model, args.lr), []
    for step in range(args.steps):
        views = [view[step].to(dtype=dtype, memory_format=memory_format) for view in (left, right)]
        losses.append(train_step(model, adam, *views))
    return losses


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    left, right = read_views(args)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pth"
        torch.manual_seed(args.seed)
        torch.save(new_model(args.arch, args.width).state_dict(), weights)
        losses = {"ours": losses_of_program(args, weights, Path(folder) / "run")}
        for form in FORMS:
            print(f"PyTorch, {form}: {args.steps} steps", file=sys.stderr)
            losses[form] = losses_of_torch(args, weights, form, left, right)

    pairs = [("ours", "NCHW"), ("channels_last", "NCHW")]
    pairs += [(form, "f64") for form in ("ours", "NCHW", "channels_last")]
    distances = {f"|{a} - {b}|": [abs(x - y) for x, y in zip(losses[a], losses[b])] for a, b in pairs}
    largest = {name: max(values) for name, values in distances.items()}
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    result = {"settings": settings, "torch_version": torch.__version__, "losses": losses, "largest_distances": largest}
    args.out.write_text(json.dumps(result, indent=1) + "\n")

    print(f"{args.arch}, width {args.width}, batch {args.batch}, learning rate {args.lr:g}, torch {torch.__version__}")
    widths = {name: max(len(name), 10) + 1 for name in [*losses, *distances]}
    print(" step" + "".join(name.rjust(width) for name, width in widths.items()))
    for step in sorted({step for step in SHOWN if step <= args.steps} | {args.steps}):
        row = [f"{values[step - 1]:{widths[name]}.7f}" for name, values in losses.items()]
        row += [f"{values[step - 1]:{widths[name]}.1e}" for name, values in distances.items()]
        print(f"{step:5}" + "".join(row))
    maxima = [f"{value:{widths[name]}.1e}" for name, value in largest.items()]
    print(" most" + " " * sum(widths[name] for name in losses) + "".join(maxima))

    limit = TIMES * max(largest["|NCHW - f64|"], largest["|channels_last - f64|"], FLOOR)
    near = largest["|ours - f64|"] <= limit
    print(f"the program is {largest['|ours - f64|']:.1e} from float64, {'within' if near else 'OVER'} {limit:.1e}")
    sys.exit(0 if near else 1)


if __name__ == "__main__":
    main()
