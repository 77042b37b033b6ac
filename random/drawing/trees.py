"""Objects as trees: every place of one by its path, and changes anywhere in it."""
import copy

from drawing import odd


def paths(tree, at=()):
    """The path of each place, the root's first: keys and indices."""
    yield at
    if isinstance(tree, dict):
        for key, child in tree.items():
            yield from paths(child, at + (key,))
    elif isinstance(tree, list):
        for index, child in enumerate(tree):
            yield from paths(child, at + (index,))


def at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def pointer(path):
    """A path as a JSON pointer."""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in path)


def mutated(dice, tree):
    """A copy with one to three places changed, whatever they are."""
    tree = copy.deepcopy(tree)
    for _ in range(dice.pick(1, 1, 1, 2, 2, 3)):
        places = [path for path in paths(tree) if path]
        if places:
            _change(dice, tree, dice.of(places))
    return tree


def _change(dice, tree, path):
    parent, key = at(tree, path[:-1]), path[-1]
    value = parent[key]
    how = dice.share({"other": 4, "gone": 1, "twice": 1, "more": 1, "renamed": 1, "wrapped": 1})
    if how == "gone":
        del parent[key]
    elif how == "twice" and isinstance(parent, list):
        parent.append(copy.deepcopy(value))
    elif how == "more" and isinstance(value, dict):
        value[odd.key(dice)] = odd.value(dice, 1)
    elif how == "renamed" and isinstance(parent, dict):
        name = str(key)
        parent[dice.pick(name.upper(), name + "x", "x" + name, name.capitalize())] = parent.pop(key)
    elif how == "wrapped":
        parent[key] = odd.mutated(dice, value) if isinstance(value, str) else [value]
    else:
        parent[key] = odd.value(dice, 2)


def json_patch(dice, tree, roots=("spec", "status", "data")):
    """One to three operations on an object, some of which make no sense."""
    places = [pointer(path) for path in paths(tree) if path and path[0] in roots] or ["/spec"]
    astray = ["/metadata/labels", "/metadata/name", "/nope/x", "", "/spec/-", "/spec/nope", "/kind", "/metadata/annotations/a", "/spec/0", "/spec/a/-"]
    operations = []
    for _ in range(1 + dice.below(3)):
        place = dice.of(places) if dice.chance(.85) else dice.of(astray)
        operation = {"op": dice.pick("add", "replace", "remove", "test", "copy", "move"), "path": place}
        if operation["op"] in ("add", "replace", "test"):
            operation["value"] = odd.value(dice, 2)
        if operation["op"] in ("copy", "move"):
            operation["from"] = dice.of(places)
        if dice.chance(.04):
            operation = dice.pick({"op": "nope", "path": place}, {"op": "add"}, {"path": place}, {"op": "add", "path": "spec"},
                                  {"op": "remove", "path": None}, {"op": "test", "path": place}, {"op": "copy", "path": place})
        operations.append(operation)
    return operations
