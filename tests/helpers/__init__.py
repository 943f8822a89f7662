"""What several tests share: models with known answers, damaged files, old runs."""

from pathlib import Path

OLD_RUNS = Path(__file__).parent / "runs"
