"""`python -m smallbatch.training.own_models FILE` checks the models given as JSON on standard input.

The answers are written to FILE one by one, which shows at which model the process ended, if it did. With
`--other-environment`, each model is only trained for a few updates, in another environment.
"""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smallbatch import models
from smallbatch.core.errors import UserError
from smallbatch.core.files import write_json
from smallbatch.training.own_models.check_processes import Answer
from smallbatch.training.own_models.examination import examine, train_shortly
from smallbatch.training.own_models.mocked_environment import other_environment
from smallbatch.training.own_models.set_order import sorted_sets
from smallbatch.training.own_models.spec import ModelSpec


def main() -> None:
    """Check each model."""
    file, other = Path(sys.argv[1]), "--other-environment" in sys.argv[2:]
    specs = [_spec(values) for values in json.load(sys.stdin)]
    models.MODELS.update({models.base_name(spec.model): spec.entry_point for spec in specs})
    answers: list[Answer] = []
    environment = other_environment() if other else contextlib.nullcontext()
    with environment, sorted_sets(_files(specs), reverse=other):
        for spec in specs:
            try:
                answer: Answer = {} if other else {"suitability": examine(spec)._asdict()}
                answers.append(answer | {"training": train_shortly(spec, resumed=not other)})
            except UserError as error:
                answers.append({"refused": str(error)})
            write_json(file, answers)


def _spec(values: Sequence[Any]) -> ModelSpec:
    spec = ModelSpec(*values)
    channels, height, width = spec.shape
    return spec._replace(shape=(channels, height, width), batch_sizes=tuple(spec.batch_sizes))


def _files(specs: Sequence[ModelSpec]) -> set[str]:
    """The files of all models, by the names under which they are imported and with links resolved."""
    entry_points = [spec.entry_point for spec in specs]
    return {str(file) for point in entry_points for file in (models.source(point), *models.files(point))}


if __name__ == "__main__":
    main()
