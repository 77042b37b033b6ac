"""Objects of built-in kinds that are right: what others are made of by changing something, and what they are among."""
import glob
import os

import yaml

HERE = os.path.dirname(os.path.abspath(__file__))
# A file a kind: those of the differential test.
KNOWN = os.path.join(HERE, "../../crates/apiserver/tests/differential/requests/fields/*.yaml")
NAMESPACE = "gen"


def documents(path):
    with open(path) as file:
        return list(yaml.load_all(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def objects():
    """One of each kind, by version and kind."""
    found = [documents(path)[0]["base"] for path in sorted(glob.glob(KNOWN))]
    return {(one["apiVersion"], one["kind"]): one for one in found + documents(os.path.join(HERE, "objects.yaml"))}


def claim():
    return objects()["v1", "PersistentVolumeClaim"]


def collection(kind, namespace=NAMESPACE):
    """The path of a kind's objects."""
    return kind.path.replace("{namespace}", namespace)


def among():
    """The steps that make what all objects are among."""
    made = [{"send": f"POST {step['path']}", "body": step["body"]} for step in documents(os.path.join(HERE, "among.yaml"))]
    return [{"until": "GET /api/v1/namespaces/default"}, *made]


def there(kind, tree, options=""):
    """The step that makes an object, which its collection's cases alone need."""
    return {"send": f"POST {collection(kind)}{options}", "body": tree, "for": collection(kind)}
