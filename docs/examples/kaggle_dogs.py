"""Kaggle's Dog Breed Identification, from the downloaded folder to a file that can be submitted.

    python kaggle_dogs.py dog-breed-identification/ [--quality best]

The folder holds `labels.csv`, `train/`, `test/` and `sample_submission.csv`, as the competition's archive unpacks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import headstart as hs
from headstart.data.tables import read_table
from headstart.delivery import submission


def main() -> None:
    """Train, say how good it is and where it fails, and answer the test pictures."""
    parser = argparse.ArgumentParser(description="From Kaggle's folder to submission.csv.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quality", choices=["fast", "balanced", "best"], default="balanced")
    parser.add_argument("--out", type=Path, default=Path("runs/dogs"))
    asked = parser.parse_args()

    result = hs.train(asked.folder, hs.TrainConfig(quality=asked.quality))
    print(f"Log-loss, which the competition counts: {result.evaluation.overall['log_loss']}")
    for finding in result.findings:
        if finding.code == "pre-training-overlap":  # these very pictures flatter every network of ImageNet
            print(finding.message)
    hs.save(result, asked.out)

    said = result.classifier.predict_many(sorted((asked.folder / "test").iterdir()))
    sample = read_table(asked.folder / "sample_submission.csv")  # which says the order of the columns
    file = asked.out / "submission.csv"
    file.write_text(submission.render(said, "labels", sample), encoding="utf-8")
    print(f"{len(sample.rows)} rows: {file}; the page: {asked.out / 'report.html'}")


if __name__ == "__main__":
    main()
