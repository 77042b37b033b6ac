"""A die with a seed: what is drawn is the same on every machine, and each round of a generator is drawn alone.

The standard generator is seeded by a text, which Python hashes the same everywhere. Only what is stable between Python's versions is
used of it: `random()` and `randrange()`.
"""
import random


class Dice:
    def __init__(self, *seed):
        self._random = random.Random(" ".join(str(part) for part in seed))

    def chance(self, probability):
        """Whether something happens."""
        return self._random.random() < probability

    def below(self, limit):
        """A whole number from 0 to below the limit."""
        return self._random.randrange(limit)

    def up_to(self, most):
        """A whole number from 0 to this one."""
        return self.below(most + 1)

    def pick(self, *options):
        """One of what is said."""
        return self.of(options)

    def of(self, options):
        """One of a list."""
        return options[self.below(len(options))]

    def share(self, weighted):
        """One of the keys, each as often as its weight says."""
        point = self._random.random() * sum(weighted.values())
        for option, weight in weighted.items():
            point -= weight
            if point < 0:
                return option
        return option

    def some(self, options, count):
        """So many of a list, each once at most, in any order."""
        left = list(options)
        return [left.pop(self.below(len(left))) for _ in range(min(count, len(left)))]

    def shuffled(self, options):
        return self.some(options, len(options))
