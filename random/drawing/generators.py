"""The generators, by what they are about. Each round of one is drawn by itself: the same whatever else is drawn."""
import functools

from drawing import builtin, changes, expressions, metadata, numbers, objects, patches, paths, patterns, ropes, scales
from drawing.definitions import DEFINITIONS
from drawing.dice import Dice
from drawing.openapi import Schemas

# Each is made for the schemas that the original tells, and draws a round by itself.
BUILT_IN = {"fields": builtin.BuiltIn, "patches": patches.Patches}
# Each is called with dice, the round's number and the world, and gives a session.
CUSTOM = {
    "objects": objects.objects, "whole": objects.whole, "applied": ropes.applied, "metadata": metadata.metadata, "scales": scales.scales,
    "paths": paths.paths, "numbers": numbers.numbers, "patterns": patterns.patterns, "definitions": changes.definitions, "updates": changes.updates}
CEL = {"rules": expressions.rules, "evaluated": expressions.evaluated}
AREAS = {"built-in": list(BUILT_IN), "custom": list(CUSTOM), "cel": list(CEL)}
GENERATORS = BUILT_IN | CUSTOM | CEL


class World:
    """What generators ask of the original: its OpenAPI, and whether it takes a definition."""

    def __init__(self, server):
        self._server = server

    @functools.cached_property
    def schemas(self):
        status, document = self._server.json("GET", "/openapi/v2")
        if status != 200:
            raise RuntimeError(f"/openapi/v2: {status}")
        return Schemas(document)

    def accepts(self, definition):
        return self._server.json("POST", f"{DEFINITIONS}?dryRun=All", definition)[0] == 201


def chosen(names):
    """The generators of each area; NAMES: of areas or of generators, all areas if there are none."""
    unknown = [name for name in names if name not in AREAS and name not in GENERATORS]
    if unknown:
        raise SystemExit(f"{', '.join(unknown)}: neither an area ({', '.join(AREAS)}) nor a generator ({', '.join(GENERATORS)})")
    return {name: AREAS.get(name, [name]) for name in names or AREAS}


def sessions(seed, count, names, world):
    """Whole rounds, until each area has its share of COUNT requests."""
    areas, drawn = chosen(names), []
    by_schema = {name: BUILT_IN[name](world.schemas) for one in areas.values() for name in one if name in BUILT_IN}
    for generators in areas.values():
        requests = round = 0
        while requests * len(areas) < count:
            for name in generators:
                one = by_schema[name].round(seed, round) if name in by_schema else GENERATORS[name](Dice(seed, name, round), round, world)
                requests += len(one.cases)
                drawn.append(one)
                if requests * len(areas) >= count:
                    break
            round += 1
    return drawn
