"""What the paper's claims say, as effects computed from grids.

A predicate takes the thresholds and a grid for each figure that it compares, and yields comparisons: effects, each with
its samples and the region that the claim puts it in. It yields nothing where the grids lack cells to compare, and
nothing on large m where a study stops before them: that nothing has failed by m = 32 says nothing of m = 2048.
"""

from collections.abc import Callable, Iterator, Mapping

from smallbatch.analysis.verdicts import Comparison

Thresholds = Mapping[str, float]
"""`claims` of config/config.yaml."""

Predicate = Callable[..., Iterator[Comparison]]
"""Takes the thresholds, then a grid for each figure that it compares."""
