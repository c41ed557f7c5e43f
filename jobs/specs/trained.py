"""The network section of a job, from the folder of the run that trained it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.checkpoints import load_card

from ..errors import RefusedError
from ..work.fit_files import CARD, FITS, WEIGHTS


def trained_network(place: Path, field: str = "network") -> dict[str, Any]:
    """Return the network section that a trained network's card stands for.

    Parameters
    ----------
    place : the folder of a training run, of one of its fits, or a card
    field : where it was named

    Raises
    ------
    RefusedError
        If there is no trained network, or more than one.
    """
    card_path = place if place.suffix == ".json" else place / CARD
    if not card_path.exists():
        if (place / FITS).is_dir():
            raise RefusedError(
                f"{field}: {place} holds several networks; name one, such as {place / FITS}/0000"
            )
        raise RefusedError(
            f"{field}: {place} holds no {CARD}; give the folder of a training run that is complete"
        )
    try:
        card = load_card(card_path)
    except ValueError as error:
        raise RefusedError(f"{field}: {error}") from error
    known = asdict(card)
    section = {
        name: known[name] for name in ("architecture", "options", "sha256", "classes", "preprocess")
    }
    section["weights"] = str(card_path.parent / WEIGHTS)
    plain: dict[str, Any] = json.loads(json.dumps(section))
    return plain
