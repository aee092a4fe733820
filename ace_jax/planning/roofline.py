"""How long a program takes at best: the slowest of computing, memory and links.

The three are taken to overlap in full, and each to run at a fixed share of what the maker states.
"""

from dataclasses import dataclass

from ace_jax.planning.chips import Chip
from ace_jax.planning.program import Program

COMPUTE_SHARE = 0.5  # of peak FLOPs; published LoRA runs reach 0.41 to 0.45 over all
MEMORY_SHARE = 0.8
LINK_SHARE = 0.8
ASSUMPTIONS = (
    f"seconds: the largest of computing at {COMPUTE_SHARE:.0%} of the peak in bfloat16, memory at "
    f"{MEMORY_SHARE:.0%} of its rate, and links at {LINK_SHARE:.0%} of one link in one direction",
    "memory traffic: a pass reads the weights once, and writes and reads those that it gathers; "
    "temporaries are written and read once; one pass in scoring, two in training",
    "links: every collective is a ring; the data's way from the host and through the network "
    "between slices is left out",
)


@dataclass(frozen=True)
class Estimate:
    """Seconds that a program's parts take, each by itself."""

    compute: float
    memory: float
    links: float

    @property
    def seconds(self) -> float:
        """Of the whole program."""
        return max(self.compute, self.memory, self.links)


def estimate(
    program: Program, chip: Chip, devices: int, weights: int, gathered: bool, passes: int
) -> Estimate:
    """Returns the roofline of a program.

    Args:
      program: what is run.
      chip: what it runs on.
      devices: how many there are.
      weights: bytes of the base that a device works with, gathered.
      gathered: whether they are gathered for use.
      passes: how often a step goes through them.
    """
    memory = passes * weights * (2 if gathered else 1) + 2 * program.temporaries
    sent = sum(one.times * one.traffic for one in program.collectives or ())
    return Estimate(
        compute=program.flops / devices / (chip.flops * COMPUTE_SHARE),
        memory=memory / (chip.memory_rate * MEMORY_SHARE),
        links=sent / (chip.link_rate * LINK_SHARE),
    )
