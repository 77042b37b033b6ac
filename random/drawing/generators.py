"""The generators, by what they are about. Each round of one is drawn by itself: the same whatever else is drawn."""
from drawing import builtin, changes, expressions, metadata, numbers, objects, paths, patterns, ropes, scales
from drawing.definitions import DEFINITIONS
from drawing.dice import Dice
from drawing.openapi import Schemas

# Each is called with dice, the round's number and the world, and gives a session.
CUSTOM = {
    "objects": objects.objects, "whole": objects.whole, "applied": ropes.applied, "metadata": metadata.metadata, "scales": scales.scales,
    "paths": paths.paths, "numbers": numbers.numbers, "patterns": patterns.patterns, "definitions": changes.definitions, "updates": changes.updates}
CEL = {"rules": expressions.rules, "evaluated": expressions.evaluated}
AREAS = {"built-in": ["built-in"], "custom": list(CUSTOM), "cel": list(CEL)}
DRAWN = CUSTOM | CEL


class World:
    """What generators ask of the original: its OpenAPI, and whether it takes a definition."""

    def __init__(self, server):
        self._server = server

    def schemas(self):
        status, document = self._server.json("GET", "/openapi/v2")
        if status != 200:
            raise RuntimeError(f"/openapi/v2: {status}")
        return Schemas(document)

    def accepts(self, definition):
        return self._server.json("POST", f"{DEFINITIONS}?dryRun=All", definition)[0] == 201


def chosen(names):
    """The generators of each area; NAMES: of areas or of generators, all areas if there are none."""
    unknown = [name for name in names if name not in AREAS and name not in DRAWN]
    if unknown:
        raise SystemExit(f"{', '.join(unknown)}: neither an area ({', '.join(AREAS)}) nor a generator ({', '.join(DRAWN)})")
    return {name: AREAS.get(name, [name]) for name in names or AREAS}


def sessions(seed, count, names, world):
    """Whole rounds, until each area has its share of COUNT requests."""
    areas = chosen(names)
    built_in = builtin.BuiltIn(world.schemas()) if "built-in" in areas else None
    drawn = []
    for generators in areas.values():
        requests = round = 0
        while requests * len(areas) < count:
            for name in generators:
                one = built_in.round(seed, round) if name == "built-in" else DRAWN[name](Dice(seed, name, round), round, world)
                requests += len(one.cases)
                drawn.append(one)
                if requests * len(areas) >= count:
                    break
            round += 1
    return drawn
