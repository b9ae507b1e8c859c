#!/usr/bin/env python3
"""Checks that TensorBoard reads the event file of a run, and finds in it what metrics.jsonl has.

    check_tensorboard.py RUN        with a Python that has tensorboard
"""
import json
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# Tags of the event file, and their names in the lines of metrics.jsonl.
TAGS = {
    "step": {
        "train/loss": "loss",
        "train/learning_rate": "lr",
        "train/gradient_norm": "grad_norm",
        "embeddings/alignment": "alignment",
        "embeddings/uniformity": "uniformity",
        "embeddings/std": "embedding_std",
        "embeddings/effective_rank": "embedding_rank",
        "speed/pairs_per_s": "pairs_per_s",
        "speed/data_wait_share": "data_wait_share",
        "speed/peak_mib": "peak_mib",
    },
    "epoch": {"epoch/loss": "loss"},
    "knn": {
        "knn/top1": "top1",
        "knn/top5": "top5",
        "features/std": "feature_std",
        "features/effective_rank": "feature_rank",
    },
}


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    run = Path(sys.argv[1])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    # All of them: by default long series are sampled.
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    found = set(events.Tags()["scalars"])
    count = 0
    for event, tags in TAGS.items():
        for tag, name in tags.items():
            expected = [(line["step"], line["time"], line[name]) for line in lines if line["event"] == event]
            scalars = [(s.step, s.wall_time, s.value) for s in events.Scalars(tag)] if expected else []
            assert len(scalars) == len(expected), (tag, len(scalars), len(expected))
            for (step, time, value), (want_step, want_time, want) in zip(scalars, expected):
                assert (step, time) == (want_step, want_time), (tag, step, time)
                assert abs(value - want) <= 1e-6 * max(1, abs(want)), (tag, step, value, want)
            count += len(scalars)
            found.discard(tag)
    assert not found, f"tags that are not checked: {found}"
    print(f"{run}: TensorBoard reads {count} numbers as they are in metrics.jsonl")


if __name__ == "__main__":
    main()
