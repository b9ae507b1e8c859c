"""scikit-learn's multinomial logistic regression on small features: coefficients and intercepts for several strengths C."""
from pathlib import Path

import numpy as np
import sklearn
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression

STRENGTHS = ["0.01", "1", "100"]


def make(out_dir: Path) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 6))
    labels = np.arange(120) % 4
    # Classes that overlap, features of different sizes.
    features = (centres[labels] + rng.normal(size=(120, 6))) * np.array([1, 0.1, 5, 1, 2, 0.5])
    features = features.astype(np.float32)
    tensors = {"features": torch.from_numpy(features), "labels": torch.from_numpy(labels.astype(np.int64))}
    for strength in STRENGTHS:
        fitted = LogisticRegression(C=float(strength), tol=1e-10, max_iter=100_000).fit(features.astype(np.float64), labels)
        tensors[f"{strength}.weight"] = torch.from_numpy(fitted.coef_).contiguous()
        tensors[f"{strength}.bias"] = torch.from_numpy(fitted.intercept_)
    metadata = {"scikit-learn": sklearn.__version__, "script": "golden_logistic.py"}
    save_file(tensors, out_dir / "logistic.safetensors", metadata=metadata)


if __name__ == "__main__":
    make(Path(__file__).parent)
