#!/usr/bin/env python3
"""Fidelity, part 2: trained on its own, views and all, the program gets the loss and kNN accuracy that PyTorch gets.

    cargo build --release
    recipe.py --program target/release/simclr-train --data-dir DIR --arch resnet18 --width 16 --subset 5000 \
        --batch 128 --epochs 10 --lr 1e-3 --seeds 0 1 2 --out recipe.json

Both train the same recipe on the same pictures, for every seed one after the other. They share no random number: first
weights, order and views are each program's own, so only means over seeds can be compared. Their difference is given in
pooled standard errors, sqrt(s1^2 / n + s2^2 / n). Beside them the floors: kNN of each program's random encoder, and of
raw pixels, which is the same in both but for ties and rounding.

Exit status 1 if the mean loss of the last epoch or kNN (k = 200) on the test split differs by over two pooled standard
errors. With few seeds that is strict: of programs that are equal, one of the two is over it in about one of five
comparisons of three seeds, and one of six of five seeds. Needs torch, torchvision, safetensors and numpy.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev

import torch
from simclr_torch import ARCHITECTURES, TRAINING_PICTURES, evaluate_model, evaluate_pixels
from simclr_torch import new_model, pretrain, read_cifar10

MOST_ERRORS = 2
# What is judged, and what is only shown.
JUDGED, SHOWN = ["loss", "kNN k=200"], ["kNN k=10", "random k=200", "random k=10"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=Path, required=True, help="simclr-train, built")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--arch", choices=ARCHITECTURES, default="resnet18")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--subset", type=int, default=TRAINING_PICTURES, help="only the first N training pictures")
    parser.add_argument("--test-subset", type=int, help="PyTorch tests N pictures: for a try; the program takes all")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of both, one after the other")
    parser.add_argument("--out", type=Path, required=True, help="all numbers, as JSON")
    args = parser.parse_args()
    if len(args.seeds) < 2:
        parser.error("--seeds needs at least two: one has no standard deviation")
    return args


def named(loss: float, trained: list, random: list, seconds: float) -> dict:
    """The numbers of one run, by the names of the table."""
    columns = ["loss", "kNN k=200", "kNN k=10", "random k=200", "random k=10", "seconds"]
    return dict(zip(columns, [loss, *trained, *random, seconds]))


def run_program(args: argparse.Namespace, seed: int) -> tuple[dict, list[float]]:
    """The numbers of one run of the program, and kNN of raw pixels."""
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "--data": "cifar10", "--data-dir": args.data_dir, "--subset": args.subset, "--arch": args.arch,
            "--width": args.width, "--batch": args.batch, "--epochs": args.epochs, "--lr": args.lr, "--seed": seed,
            "--knn-every": 0, "--checkpoint-every": 1000, "--device": "cpu", "--threads": args.threads,
            "--run": Path(folder) / "run",
        }  # fmt: skip
        command = [args.program, "pretrain", "--json", *(word for option in options.items() for word in option)]
        done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{args.program} ended with status {done.returncode}")
    result = json.loads(done.stdout.splitlines()[-1])
    top1 = {name: [protocol["top1"] for protocol in protocols] for name, protocols in result["knn"].items()}
    return named(result["loss"], top1["trained"], top1["random"], result["seconds"]), top1["raw_pixels"]


def run_torch(args: argparse.Namespace, seed: int, train: tuple, test: tuple) -> dict:
    torch.manual_seed(seed)
    model = new_model(args.arch, args.width)
    random = evaluate_model(model, train, test)
    began = time.monotonic()
    losses = pretrain(model, train[0], args.batch, args.epochs, args.lr)
    seconds = time.monotonic() - began
    return named(losses[-1], evaluate_model(model, train, test), random, seconds)


def show(name: str, number: float) -> str:
    return f"{number:9.4f}" if name == "loss" else f"{number:9.2%}"


def compare(name: str, ours: list[float], theirs: list[float]) -> float:
    """Prints means and deviations. Returns the distance of the means in pooled standard errors."""
    difference = mean(ours) - mean(theirs)
    error = math.sqrt(stdev(ours) ** 2 / len(ours) + stdev(theirs) ** 2 / len(theirs))
    # Seeds that all give the same number leave no error to measure by.
    errors = difference / error if error > 0 else math.copysign(math.inf, difference) if difference else 0.0
    sides = [f"{show(name, mean(side))} ±{show(name, stdev(side))}" for side in (ours, theirs)]
    print(f"{name:13} {sides[0]:>22} {sides[1]:>22} {errors:11.2f}")
    return abs(errors)


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    train = read_cifar10(args.data_dir, "train", args.subset)
    test = read_cifar10(args.data_dir, "test", args.test_subset)
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    result = {"settings": settings, "torch_version": torch.__version__, "ours": [], "torch": []}
    result["raw_pixels_torch"] = evaluate_pixels(train, test)
    columns = [*JUDGED, *SHOWN]
    print(f"{args.arch} of width {args.width}, {len(train[0])} pictures, batch {args.batch}, {args.epochs} epochs, "
          f"learning rate {args.lr:g}, kNN of {len(test[0])} test pictures, torch {torch.__version__}")  # fmt: skip
    print("seed         ", *(name.rjust(13) for name in columns), "seconds".rjust(9))
    for seed in args.seeds:
        ours, result["raw_pixels_ours"] = run_program(args, seed)
        for name, numbers in ("ours", ours), ("torch", run_torch(args, seed, train, test)):
            result[name].append({"seed": seed, **numbers})
            cells = (show(column, numbers[column]).rjust(13) for column in columns)
            print(f"{seed:<6} {name:6}", *cells, f"{numbers['seconds']:9.0f}", flush=True)
        # After every seed: a long run that is stopped has not run for nothing.
        args.out.write_text(json.dumps(result, indent=1) + "\n")

    print(f"\n{'':13} {'ours':>22} {'torch':>22} {'difference':>11}  (in pooled standard errors)")
    sides = {name: [[numbers[name] for numbers in result[side]] for side in ("ours", "torch")] for name in columns}
    errors = {name: compare(name, *sides[name]) for name in columns}
    for i, k in enumerate((200, 10)):
        ours, theirs = result["raw_pixels_ours"][i], result["raw_pixels_torch"][i]
        print(f"{f'pixels k={k}':13} {ours:22.2%} {theirs:22.2%}")
    apart = [name for name in JUDGED if errors[name] > MOST_ERRORS]
    over = f"OVER {MOST_ERRORS} pooled standard errors: {', '.join(apart)}"
    print(over if apart else "the same, as far as the seeds tell")
    sys.exit(1 if apart else 0)


if __name__ == "__main__":
    main()
