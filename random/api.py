"""An API server as a kubeconfig names it: requests over TLS, each thread with a connection of its own."""
import base64
import http.client
import json
import os
import re
import ssl
import tempfile
import threading

import protobuf
import yaml

TIMEOUT_S = 40
# Headers that are compared, beside the content type and the warnings.
OTHER_HEADERS = ("allow", "location", "retry-after", "www-authenticate")


class Server:
    def __init__(self, kubeconfig):
        with open(kubeconfig) as file:
            config = yaml.safe_load(file)
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._host = cluster["server"].split("//")[1].rstrip("/")
        self._token = user.get("token")
        # Which server it is, is not what is tried.
        self._tls = ssl.create_default_context()
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE
        with tempfile.TemporaryDirectory() as folder:
            certificate, key = (_file(user, name, folder) for name in ("client-certificate", "client-key"))
            if certificate:
                self._tls.load_cert_chain(certificate, key)
        self._mine = threading.local()

    def send(self, verb, path, body=None, headers=None):
        """(the response, its body as bytes). A connection that is gone is made anew once."""
        headers = dict(headers or {})
        if self._token:
            headers["authorization"] = "Bearer " + self._token
        for last in (False, True):
            connection = getattr(self._mine, "connection", None)
            if connection is None:
                connection = self._mine.connection = http.client.HTTPSConnection(self._host, context=self._tls, timeout=TIMEOUT_S)
            try:
                connection.request(verb, path.replace(" ", "%20"), body.encode("utf-8", "surrogatepass") if body is not None else None, headers)
                response = connection.getresponse()
                return response, response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self._mine.connection = None
                if last or isinstance(error, TimeoutError):
                    raise

    def json(self, verb, path, tree=None, kind="application/json"):
        """(status, body)."""
        response, body = self.send(verb, path, None if tree is None else json.dumps(tree), {"content-type": kind} if tree is not None else {})
        return response.status, tree_of(body)

    def answer(self, case):
        """What is compared of the answer to a case; `error` alone if there was none."""
        verb, path = case.request.split(" ", 1)
        headers = {**case.headers, **({"impersonate-user": case.user} if case.user else {})}
        try:
            response, body = self.send(verb, path, case.body, headers)
        except (OSError, http.client.HTTPException) as error:
            return {"error": repr(error)}
        answer = {"status": response.status, "body": tree_of(body), "type": response.getheader("content-type") or ""}
        answer["warnings"] = sorted(response.headers.get_all("warning") or [])
        answer["headers"] = [f"{name}: {response.getheader(name)}" for name in OTHER_HEADERS if response.getheader(name)]
        return answer


def _file(user, name, folder):
    """The path of what a kubeconfig has as data or names."""
    if name + "-data" not in user:
        return user.get(name)
    path = os.path.join(folder, name)
    with open(path, "wb") as file:
        file.write(base64.b64decode(user[name + "-data"]))
    return path


def tree_of(body):
    """A body as a tree: of JSON, of Kubernetes' protobuf, of a refusal in YAML; a text otherwise."""
    if body.startswith(protobuf.MAGIC):
        try:
            return {"protobuf": protobuf.tree(body[len(protobuf.MAGIC):])}
        except (ValueError, IndexError):
            pass
    try:
        # Fractions as they are spelled: 1.0 is not 1.
        return json.loads(body, parse_float=lambda text: "float:" + text)
    except ValueError:
        pass
    text = body.decode("utf-8", "replace")
    # YAML is compared as text, but for refusals, whose errors may come in any order.
    if re.search("^kind: Status$", text, re.MULTILINE):
        return yaml.load(text, Loader=yaml.BaseLoader)
    return text
