"""The table of the first page's model file."""

from __future__ import annotations

import random
from pathlib import Path


def write(folder: Path, model_file: str, rows: int = 300) -> None:
    """Put `patients.csv`, in which older smokers return more often, and the model file there."""
    chance = random.Random(11)
    lines = ["patient_id,age,weight,ward,smoker,readmitted"]
    for number in range(rows):
        age, smoker = chance.randint(18, 95), chance.random() < 0.4
        weight = "" if chance.random() < 0.1 else f"{chance.gauss(78, 14):.1f}"
        ward = chance.choice(["A1", "B2", "C3"])
        readmitted = age / 95 + smoker * 0.4 + chance.gauss(0, 0.15) > 0.8
        lines.append(f"{number},{age},{weight},{ward},{int(smoker)},{int(readmitted)}")
    folder.mkdir(parents=True)
    (folder / "patients.csv").write_text("\n".join(lines) + "\n", "utf-8")
    (folder / "defs.yaml").write_text(model_file, "utf-8")
